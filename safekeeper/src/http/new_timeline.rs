//! [`NewTimelineBody`] and [`BootstrapBody`]: the bodies of `POST /v1/timelines` and `PUT .../bootstrap`, and their
//! validation.

use std::fmt;

use consensus::{Dialect, Lineage, Member};
use serde::{Deserialize, Serialize};
use telemetry::ApiError;
use wal_types::{Lsn, NodeId, SegmentSize, SystemId, TenantTimelineId, Tli};

use crate::replies::dialect_name;
use crate::start_history::StartHistory;
use crate::timeline::NewTimeline;

/// The body as the operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTimelineBody {
    tenant_id: String,
    timeline_id: String,
    start_lsn: String,
    system_id: String,
    pg_version: u32,
    wal_segment_size: u32,
    dialect: String,
    /// PostgreSQL's timeline number at `start_lsn`, for a cluster that was promoted before.
    start_tli: Option<u32>,
    /// Text of the history file of `start_tli`.
    start_history: Option<String>,
    /// Birth of the log, for a copy that joins it: as the members show it.
    birth: Option<String>,
    /// The first members, which an earlier release took here.
    members: Option<serde_json::Value>,
}

/// Body of `PUT .../bootstrap`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BootstrapBody {
    members: Vec<MemberAddress>,
}

/// A member, in the body of a bootstrap and in a status.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberAddress {
    pub(super) id: u64,
    pub(super) host: String,
    pub(super) port: u16,
    /// Its copy of the log, as the creation of the copy answered it.
    pub(super) replica_id: String,
}

/// 400: `field` of the request is wrong.
pub(super) fn bad_field(field: &str, error: impl fmt::Display) -> ApiError {
    ApiError::bad_request(format_args!("{field}: {error}"))
}

impl NewTimelineBody {
    /// Checks the body.
    pub(super) fn validate(self) -> Result<NewTimeline, ApiError> {
        if self.members.is_some() {
            return Err(bad_field(
                "members",
                "they are listed afterwards, by PUT /v1/timelines/{tenant}/{timeline}/bootstrap with the replica_id that \
                 each creation answers",
            ));
        }
        let start_lsn: Lsn = self.start_lsn.parse().map_err(|error| bad_field("start_lsn", error))?;
        let segment_size =
            SegmentSize::new(self.wal_segment_size).map_err(|error| bad_field("wal_segment_size", error))?;
        if start_lsn == Lsn::INVALID || segment_size.offset_of(start_lsn) != 0 {
            return Err(bad_field("start_lsn", format!("{start_lsn} is not the start of a segment")));
        }

        let dialect = [Dialect::Neon, Dialect::Holdfast]
            .into_iter()
            .find(|dialect| dialect_name(*dialect) == self.dialect);
        let dialect = dialect.ok_or_else(|| bad_field("dialect", "expected \"holdfast\" or \"neon\""))?;
        let start_tli = match self.start_tli {
            None | Some(1) => Tli::FIRST,
            Some(tli @ 2..) if dialect == Dialect::Holdfast => Tli(tli),
            Some(tli @ 2..) => {
                return Err(bad_field(
                    "start_tli",
                    format!("{tli} is not possible in dialect neon, expected 1"),
                ));
            }
            Some(0) => {
                return Err(bad_field("start_tli", "0 is not possible, timelines are numbered from 1"));
            }
        };

        let past = self.start_history.as_deref().unwrap_or_default();
        StartHistory::parse(past, start_tli, start_lsn, segment_size)
            .map_err(|error| bad_field("start_history", error))?;

        let system_id = self.system_id.parse();
        let lineage = Lineage {
            id: TenantTimelineId {
                tenant: self.tenant_id.parse().map_err(|error| bad_field("tenant_id", error))?,
                timeline: self.timeline_id.parse().map_err(|error| bad_field("timeline_id", error))?,
            },
            dialect,
            system_id: SystemId(
                system_id.map_err(|_| bad_field("system_id", "expected a decimal number in quotes"))?,
            ),
            pg_version: self.pg_version,
            segment_size,
            start_lsn,
            start_tli,
            birth: self
                .birth
                .map(|birth| birth.parse())
                .transpose()
                .map_err(|error| bad_field("birth", error))?,
            start_history: None,
        };

        let start_history = self.start_history.map(String::into_bytes);
        if start_history.is_some() && start_tli == Tli::FIRST {
            return Err(bad_field("start_history", "timeline 1 has no history file"));
        }
        Ok(NewTimeline { lineage, start_history })
    }
}

impl BootstrapBody {
    /// Checks the body.
    pub(super) fn validate(self) -> Result<Vec<Member>, ApiError> {
        let member = |member: MemberAddress| {
            let replica = member.replica_id.parse().map_err(|error| bad_field("replica_id", error))?;
            let longest = consensus::codec::HOST_BYTES_MAX;
            let is_usable = (1..=longest).contains(&member.host.len()) && !member.host.contains('\0');
            if !is_usable || member.port == 0 {
                let error = format!("number {} has no usable host and port", member.id);
                return Err(bad_field("members", error));
            }
            Ok(Member { id: NodeId(member.id), host: member.host, port: member.port, replica })
        };
        self.members.into_iter().map(member).collect()
    }
}
