//! [`TimelineStatus`]: the JSON of one timeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Member, TermStart};
use serde::Serialize;
use wal_store::{Health, HoldReason};
use wal_types::TenantTimelineId;

use super::new_timeline::MemberAddress;
use crate::replies::dialect_name;
use crate::retention::TimelineHolds;
use crate::timeline::{NotServed, NotServedCause, Timeline};

/// Status of a timeline. A timeline that is not served has only its ids, a health and the reason. The health says whether
/// opening is tried again (`full`, `failed`) or not (`corrupt`, `thread_ended`).
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum TimelineStatus {
    Served(Box<ServedStatus>),
    NotServed { tenant_id: String, timeline_id: String, health: &'static str, error: String },
}

/// Status of a timeline that is served.
#[derive(Serialize)]
pub(super) struct ServedStatus {
    tenant_id: String,
    timeline_id: String,
    /// This copy of the log: drawn when it was created.
    replica_id: String,
    /// Birth of the log; absent until the copy knows its first members.
    #[serde(skip_serializing_if = "Option::is_none")]
    birth: Option<String>,
    dialect: &'static str,
    health: &'static str,
    term: u64,
    last_log_term: u64,
    write_lsn: String,
    flush_lsn: String,
    commit_lsn: String,
    persisted_commit_lsn: String,
    start_lsn: String,
    oldest_lsn: String,
    history: Vec<HistoryEntry>,
    system_id: String,
    pg_version: u32,
    wal_segment_size: u32,
    members: Vec<MemberAddress>,
    /// Set while acknowledged WAL is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<LostWal>,
    /// Damaged files that were put aside, in the timeline's directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quarantined: Vec<String>,
    truncations: u64,
    wal_receivers: usize,
    wal_senders: usize,
    retention: RetentionStatus,
}

/// Why old WAL is kept, and what was given up.
#[derive(Serialize)]
struct RetentionStatus {
    /// WAL below the commit position that each reason keeps, in bytes. Reasons overlap.
    held_bytes: BTreeMap<&'static str, u64>,
    /// WAL that was removed although a reader or a member wanted it.
    given_up: Vec<GivenUpStatus>,
    /// Reasons that keep nothing now, because the disk is nearly full.
    under_pressure: Vec<&'static str>,
    /// A member lacks WAL that was removed here.
    needs_reseed: bool,
}

#[derive(Serialize)]
struct GivenUpStatus {
    reason: &'static str,
    from_lsn: String,
    to_lsn: String,
}

/// WAL that this safekeeper acknowledged and no longer has.
#[derive(Serialize)]
struct LostWal {
    /// Term in which the loss was found.
    term: u64,
    /// Position up to which WAL was acknowledged.
    acked_upto: String,
}

#[derive(Serialize)]
struct HistoryEntry {
    term: u64,
    start_lsn: String,
    tli: u32,
}

impl TimelineStatus {
    pub(super) fn new(id: TenantTimelineId, timeline: &Result<Arc<Timeline>, NotServed>) -> Self {
        match timeline {
            Ok(timeline) => Self::Served(Box::new(ServedStatus::new(timeline))),
            Err(why) => Self::NotServed {
                tenant_id: id.tenant.to_string(),
                timeline_id: id.timeline.to_string(),
                health: cause_label(why.cause),
                error: why.reason.to_string(),
            },
        }
    }
}

impl ServedStatus {
    fn new(timeline: &Timeline) -> Self {
        let snapshot = timeline.snapshot();
        let lineage = &snapshot.lineage;
        let entry = |entry: &TermStart| HistoryEntry {
            term: entry.term.0,
            start_lsn: entry.start.to_string(),
            tli: entry.tli.0,
        };
        let member = |member: &Member| MemberAddress {
            id: member.id.0,
            host: member.host.clone(),
            port: member.port,
            replica_id: member.replica.to_string(),
        };

        Self {
            tenant_id: lineage.id.tenant.to_string(),
            timeline_id: lineage.id.timeline.to_string(),
            replica_id: snapshot.copy.replica.to_string(),
            birth: lineage.birth.map(|birth| birth.to_string()),
            dialect: dialect_name(lineage.dialect),
            health: health_label(snapshot.health),
            term: snapshot.term.0,
            last_log_term: snapshot.last_log_term.0,
            write_lsn: snapshot.write_lsn.to_string(),
            flush_lsn: snapshot.flush_lsn.to_string(),
            commit_lsn: snapshot.commit_lsn.to_string(),
            persisted_commit_lsn: snapshot.persisted_commit_lsn.to_string(),
            start_lsn: lineage.start_lsn.to_string(),
            oldest_lsn: snapshot.oldest_lsn.to_string(),
            history: snapshot.history.entries().iter().map(entry).collect(),
            system_id: lineage.system_id.to_string(),
            pg_version: lineage.pg_version,
            wal_segment_size: lineage.segment_size.bytes(),
            members: snapshot.configuration.members.iter().map(member).collect(),
            lost: snapshot
                .lost
                .map(|lost| LostWal { term: lost.term.0, acked_upto: lost.acked_upto.to_string() }),
            quarantined: snapshot.quarantined.to_vec(),
            truncations: snapshot.truncations,
            wal_receivers: timeline.proposer_count(),
            wal_senders: timeline.readers.count(),
            retention: RetentionStatus::new(&timeline.holds),
        }
    }
}

impl RetentionStatus {
    fn new(holds: &TimelineHolds) -> Self {
        let given_up = holds.given_up().into_iter().map(|one| GivenUpStatus {
            reason: one.reason.label(),
            from_lsn: one.from.to_string(),
            to_lsn: one.to.to_string(),
        });
        Self {
            held_bytes: HoldReason::ALL.map(|reason| (reason.label(), holds.held_bytes(reason))).into(),
            given_up: given_up.collect(),
            under_pressure: HoldReason::ALL
                .iter()
                .take(holds.pressure().0.into())
                .map(|reason| reason.label())
                .collect(),
            needs_reseed: holds.needs_reseed(),
        }
    }
}

const fn health_label(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Full => "full",
        Health::Failed => "failed",
        Health::Lost => "lost",
        Health::Corrupt => "corrupt",
    }
}

const fn cause_label(cause: NotServedCause) -> &'static str {
    match cause {
        NotServedCause::Opening => "opening",
        NotServedCause::DiskFull => "full",
        NotServedCause::DiskFailed => "failed",
        NotServedCause::Quarantined => "corrupt",
        NotServedCause::ShardEnded => "thread_ended",
    }
}
