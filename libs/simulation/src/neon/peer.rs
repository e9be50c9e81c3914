//! [`NeonPeer`]: what a [`NeonProposer`](super::NeonProposer) knows about one safekeeper.

use std::collections::VecDeque;

use consensus::{PeerState, ProposerMessage, VoteResponse};
use wal_types::{Lsn, Term};

/// State of one safekeeper in a campaign.
#[derive(Default)]
pub(super) struct NeonPeer {
    pub(super) state: PeerState,
    pub(super) outbox: VecDeque<ProposerMessage>,
    pub(super) term: Term,
    pub(super) vote: Option<VoteResponse>,
    pub(super) acked: Lsn,
    pub(super) persisted_commit: Lsn,
    pub(super) told_commit: Lsn,
    pub(super) heartbeat: bool,
}

impl NeonPeer {
    /// End of the WAL that was sent to it, while it is streamed to.
    pub(super) fn sent(&self) -> Option<Lsn> {
        match self.state {
            PeerState::Streaming { sent } => Some(sent),
            _ => None,
        }
    }
}
