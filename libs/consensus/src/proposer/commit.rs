//! Commit: counts acknowledgements, moves the commit LSN, and takes the steps that follow from it.

use wal_types::{CopyId, Lsn, NodeId};

use super::peer::PeerState;
use super::{Action, LostTerm, Proposer};
use crate::message::AppendResponse;
use crate::quorum;

impl Proposer {
    /// Commit LSN: everything below is durable on a quorum. Zero until a quorum holds the log up to the start of this
    /// term.
    pub const fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// Makes an append due for each follower that was not sent the newest commit LSN.
    pub fn announce_commit(&mut self) {
        let commit = self.commit_lsn;
        let behind =
            self.peers.values_mut().filter(|peer| peer.sent().is_some() && peer.announced_commit < commit);
        behind.for_each(|peer| peer.heartbeat = true);
    }

    /// True when a quorum has *persisted* that everything below this term's start is committed: the log can be read as
    /// committed even if this proposer vanishes now.
    pub fn start_commit_is_persisted(&self) -> bool {
        let start = self.term_start();
        self.has_quorum(|node| self.peers.get(&node).is_some_and(|peer| peer.persisted_commit >= start))
    }

    /// Records what a follower acknowledged. An impossible position resets the connection.
    pub(super) fn record_ack(
        &mut self,
        from: NodeId,
        response: &AppendResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        // No follower can hold more of this term than exists of it.
        let possible =
            response.term == self.term && response.flush_lsn <= self.wal.end().max(self.term_start());
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| possible && peer.sent().is_some()) else {
            return Ok(self.reset_connection(from));
        };
        peer.acked = peer.acked.max(response.flush_lsn);
        peer.oldest_lsn = peer.oldest_lsn.max(response.oldest_lsn);
        peer.persisted_commit = peer.persisted_commit.max(response.commit_lsn);
        // Only a node that adopted this term's history, and the configuration with it, reports a position.
        if response.flush_lsn.is_valid() {
            peer.configured = peer.configured.max(Some(response.generation));
        }
        self.trim();
        Ok(self.advance())
    }

    /// Takes every step that follows from the newest acknowledgements: commits, decided configurations, and the step
    /// out of a joint one.
    pub(super) fn advance(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            actions.extend(self.advance_commit());
            if !self.membership.decided && self.configuration_is_accepted() {
                self.membership.decided = true;
                let listed = self.configuration().filter(|configuration| !configuration.members.is_empty());
                actions.extend(listed.cloned().map(Action::Configured));
                actions.extend(self.welcome_copies());
            }
            let Some(last) = self.successor() else { break };
            self.propose(last);
        }
        // A voter with a new log may have waited for this commit: see `new_log_start_max`.
        self.peers_in_state(&PeerState::Voted).into_iter().for_each(|node| self.start_streaming(node));
        actions
    }

    fn advance_commit(&mut self) -> Option<Action> {
        let commit = self.acknowledged_by_quorum();
        (commit > self.commit_lsn).then(|| {
            self.commit_lsn = commit;
            Action::Committed(commit)
        })
    }

    /// The highest position that a quorum of each voting set has acknowledged in this term; zero below the term's start.
    pub(super) fn acknowledged_by_quorum(&self) -> Lsn {
        quorum::committed(&self.voting_sets(), self.term_start(), |copy| self.acked(copy))
    }

    /// The removal horizon: everything below is committed and on all members.
    pub(super) fn agreed_lsn(&self) -> Lsn {
        let lowest = self.voting_sets().into_iter().flatten().map(|copy| self.acked(copy)).min();
        lowest.unwrap_or_default().min(self.commit_lsn)
    }

    /// The highest position that a copy acknowledged in this term; zero when it acknowledged nothing.
    pub(super) fn acked(&self, copy: CopyId) -> Lsn {
        self.peer_of(copy).map_or(Lsn::INVALID, |peer| peer.acked)
    }

    /// First byte of this term's own WAL. Before the election it is `Lsn::MAX`, which no position reaches.
    pub(super) fn term_start(&self) -> Lsn {
        self.election.as_ref().map_or(Lsn::MAX, |election| election.start)
    }
}
