//! [`NewTimelineBody`]: the body of `POST /v1/timelines`, and its validation.

use std::fmt;

use consensus::{Configuration, Dialect, Lineage, Member};
use serde::{Deserialize, Serialize};
use telemetry::ApiError;
use wal_types::{Generation, Lsn, NodeId, SegmentSize, SystemId, TenantTimelineId, TimelineId, Tli};

use crate::replies::dialect_name;
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
    members: Vec<MemberAddress>,
    /// PostgreSQL's timeline number at `start_lsn`, for a cluster that was promoted before.
    start_tli: Option<u32>,
}

/// A member, in the body of a creation and in a status.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberAddress {
    pub(super) id: u64,
    pub(super) host: String,
    pub(super) port: u16,
    /// In a creation: the disk that the member is known to have, as its `/v1/status` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk_id: Option<String>,
}

/// 400: `field` of the request is wrong.
pub(super) fn bad_field(field: &str, error: impl fmt::Display) -> ApiError {
    ApiError::bad_request(format_args!("{field}: {error}"))
}

impl NewTimelineBody {
    /// Checks the body for safekeeper `node`.
    pub(super) fn validate(self, node: NodeId) -> Result<NewTimeline, ApiError> {
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
        };

        let own = self.members.iter().find(|member| member.id == node.0);
        let disk = own.and_then(|own| own.disk_id.as_deref()).map(str::parse::<TimelineId>).transpose();
        let disk = disk.map_err(|_| bad_field("disk_id", "expected 32 hexadecimal digits"))?;
        let disk = disk.map(|disk| disk.0);
        Ok(NewTimeline { lineage, configuration: configuration(self.members, node)?, disk })
    }
}

/// The configuration that the operator writes down: generation zero, which means that no leader has changed it.
fn configuration(members: Vec<MemberAddress>, node: NodeId) -> Result<Configuration, ApiError> {
    let members = members.into_iter();
    let members: Vec<_> = members
        .map(|member| Member { id: NodeId(member.id), host: member.host, port: member.port })
        .collect();
    if !members.iter().any(|member| member.id == node) {
        return Err(bad_field("members", format!("this safekeeper, number {node}, is missing")));
    }

    let longest = consensus::codec::HOST_BYTES_MAX;
    if let Some(unusable) = members.iter().find(|member| {
        member.host.is_empty()
            || member.host.len() > longest
            || member.host.contains('\0')
            || member.port == 0
    }) {
        return Err(bad_field("members", format!("number {} has no usable host and port", unusable.id)));
    }
    let configuration = Configuration { generation: Generation(0), members, ..Configuration::default() };
    configuration.validate().map_err(|error| bad_field("members", error))?;
    Ok(configuration)
}
