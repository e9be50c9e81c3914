//! Status of a campaign, for its driver and for status pages.

use wal_types::NodeId;

use super::peer::{Peer, PeerState, PeerStatus};
use super::{CampaignPhase, Proposer};
use crate::quorum;

impl Proposer {
    /// True when a quorum follows, yet nothing can be committed any more: too many of the followers lack WAL that neither
    /// the buffer nor a connected safekeeper holds. The primary still has it, so the driver must begin a new term.
    pub fn is_stuck(&self) -> bool {
        let streaming = |node: NodeId| self.peers.get(&node).and_then(Peer::sent);
        let served = |node: NodeId| {
            streaming(node).is_some_and(|sent| sent >= self.wal.start() || self.poll_fetch(node).is_some())
        };
        self.phase == CampaignPhase::Leading
            && self.has_quorum(|node| streaming(node).is_some())
            && !self.has_quorum(served)
    }

    /// True when `has` holds for a quorum of each voting set. A safekeeper counts only where its copy is a member.
    pub fn has_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        quorum::reached(&self.voting_sets(), |copy| self.peer_of(copy).is_some() && has(copy.node))
    }

    /// True when a follower needs WAL that is not buffered and that no other safekeeper, connected or not, is known to have.
    fn lacks_a_donor(&self, node: NodeId, peer: &Peer) -> bool {
        let Some(from) = peer.sent().filter(|&sent| sent < self.wal.start()) else { return false };
        let has = |other: &Peer| {
            let vote = other.vote.as_ref().filter(|_| other.oldest_lsn <= from);
            vote.is_some_and(|vote| other.acked.max(vote.flush_lsn) > from)
        };
        !self.peers.iter().any(|(&id, other)| id != node && has(other))
    }

    /// All safekeepers, by id.
    pub fn status(&self) -> Vec<PeerStatus> {
        let one = |(&id, peer): (&NodeId, &Peer)| {
            let reported = peer
                .vote
                .as_ref()
                .map(|vote| vote.flush_lsn)
                .or(peer.pre_vote.as_ref().map(|position| position.flush_lsn));
            PeerStatus {
                id,
                state: peer.state.clone(),
                flush_lsn: if peer.acked.is_valid() { peer.acked } else { reported.unwrap_or_default() },
                commit_lsn: peer.persisted_commit,
                unconfigured: peer.unconfigured,
                catching_up: peer.sent().is_some_and(|sent| sent < self.wal.start()),
                needs_reseed: peer.state == PeerState::CannotFollow || self.lacks_a_donor(id, peer),
                lost: peer.lost,
            }
        };
        self.peers.iter().map(one).collect()
    }
}
