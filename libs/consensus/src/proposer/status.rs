//! What a proposer knows about its followers, for the driver and for status pages.

use wal_types::NodeId;

use super::peer::Peer;
use super::{CampaignPhase, PeerStatus, Proposer};
use crate::quorum;

impl Proposer {
    /// True when a quorum has *persisted* that everything below this term's start is committed: the log can be read as
    /// committed even if this proposer vanishes now.
    pub fn start_commit_is_persisted(&self) -> bool {
        let start = self.term_start();
        quorum::reached(&self.sets(), |node| {
            self.peers.get(&node).is_some_and(|peer| peer.persisted_commit >= start)
        })
    }

    /// True when a quorum follows, yet so many of them lack WAL that nobody connected has that nothing can ever be
    /// committed again. The primary still has it: the driver must begin a new term.
    pub fn is_stuck(&self) -> bool {
        let sets = self.sets();
        let streaming = |node: NodeId| self.peers.get(&node).and_then(Peer::sent);
        let served = |node: NodeId| {
            streaming(node).is_some_and(|sent| sent >= self.wal.start() || self.poll_fetch(node).is_some())
        };
        self.phase == CampaignPhase::Leading
            && quorum::reached(&sets, |node| streaming(node).is_some())
            && !quorum::reached(&sets, served)
    }

    /// True when `has` holds for a quorum of the voting sets.
    pub fn has_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        quorum::reached(&self.sets(), has)
    }

    /// All safekeepers, by id.
    pub fn status(&self) -> Vec<PeerStatus> {
        let one = |(&id, peer): (&NodeId, &Peer)| {
            let told = peer
                .vote
                .as_ref()
                .map(|vote| vote.flush_lsn)
                .or(peer.surveyed.as_ref().map(|at| at.flush_lsn));
            PeerStatus {
                id,
                state: peer.state.clone(),
                flush_lsn: if peer.acked.is_valid() { peer.acked } else { told.unwrap_or_default() },
                commit_lsn: peer.persisted_commit,
                catching_up: peer.sent().is_some_and(|sent| sent < self.wal.start()),
            }
        };
        self.peers.iter().map(one).collect()
    }
}
