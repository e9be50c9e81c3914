//! [`RequestedChange`]: the last requested change, and the new members that must catch up before it is proposed.
//!
//! Carried out by `configuration_changes`.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::Member;
use tokio::time::Instant;
use wal_types::{Lsn, NodeId};

use crate::status::{ChangeState, ChangeView};

/// A change fails when none of the new members that it waits for has stored anything for this long.
const NEW_MEMBER_STALL_MAX: Duration = Duration::from_secs(60);
/// A change fails when new members have not caught up after this long: they are slower than the primary writes.
const NEW_MEMBER_CATCH_UP_MAX: Duration = Duration::from_secs(6 * 3600);

/// The last requested change.
#[derive(Debug)]
pub(super) struct RequestedChange {
    /// Set until the change is proposed.
    pub(super) catch_up: Option<CatchUp>,
    pub(super) view: ChangeView,
}

/// New members that receive the log before the change is proposed.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) members: Vec<Member>,
    started_at: Instant,
    /// The position of each new member that still lacks WAL.
    positions: BTreeMap<NodeId, Lsn>,
    /// When one of them last stored something.
    moved_at: Instant,
}

/// A new member that still lacks too much WAL to vote.
pub(super) struct BehindMember {
    pub(super) id: NodeId,
    pub(super) flush_lsn: Lsn,
    /// Bytes that it lacks; none while its position is unknown.
    pub(super) lag_bytes: Option<u64>,
    /// It has answered, and no safekeeper can feed it from where its log ends.
    pub(super) cannot_follow: bool,
}

impl RequestedChange {
    /// True until the change is decided or has failed.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.view.state, ChangeState::CatchingUp | ChangeState::Proposed)
    }
}

impl CatchUp {
    /// Starts both time limits.
    pub(super) fn start(members: Vec<Member>) -> Self {
        let now = Instant::now();
        Self { members, started_at: now, positions: BTreeMap::new(), moved_at: now }
    }

    /// Records the positions; a change of any of them restarts the stall limit.
    pub(super) fn record_positions(&mut self, behind: &[BehindMember]) {
        let positions: BTreeMap<NodeId, Lsn> =
            behind.iter().map(|member| (member.id, member.flush_lsn)).collect();
        if positions != self.positions {
            (self.positions, self.moved_at) = (positions, Instant::now());
        }
    }

    /// Why the change fails, when the new members take too long.
    pub(super) fn timeout_error(&self, view: &ChangeView) -> Option<String> {
        let nodes = view.waits_for.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>().join(", ");
        let stalled = self.moved_at.elapsed() > NEW_MEMBER_STALL_MAX;
        let late = self.started_at.elapsed() > NEW_MEMBER_CATCH_UP_MAX;
        (stalled || late).then(|| {
            let cause = if stalled { "has stored nothing for" } else { "has not caught up after" };
            let limit = if stalled { NEW_MEMBER_STALL_MAX } else { NEW_MEMBER_CATCH_UP_MAX };
            let limit = humantime::format_duration(limit);
            format!("new member {nodes} {cause} {limit}: check its log and its address; nothing was changed")
        })
    }
}
