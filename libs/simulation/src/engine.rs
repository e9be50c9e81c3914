//! [`Engine`]: the interface of a proposer to the simulation, whichever dialect it speaks.

use bytes::Bytes;
use consensus::{
    AcceptorMessage, Action, CampaignPhase, DonorRange, Election, LostTerm, Proposer, ProposerMessage,
    WalBuffer,
};
use wal_types::{Lsn, NodeId, Term};

/// One campaign and the term that it wins, without clock and network. The methods are those of [`Proposer`].
pub(crate) trait Engine {
    fn connected(&mut self, node: NodeId);
    fn disconnected(&mut self, node: NodeId);
    fn receive(&mut self, from: NodeId, message: AcceptorMessage) -> Result<Vec<Action>, LostTerm>;
    fn poll_send(&mut self, node: NodeId) -> Option<ProposerMessage>;
    fn poll_fetch(&self, node: NodeId) -> Option<DonorRange>;
    fn fetched(&mut self, node: NodeId, donor: NodeId, at: Lsn, wal: &Bytes) -> bool;
    fn approve(&mut self, wal: WalBuffer);
    fn append(&mut self, at: Lsn, wal: Bytes) -> bool;
    fn wants_wal(&self) -> bool;
    fn received_lsn(&self) -> Lsn;
    fn heartbeat(&mut self);
    fn announce_commit(&mut self);
    fn term(&self) -> Term;
    fn leads(&self) -> bool;
    fn election(&self) -> Option<&Election>;
    fn commit_lsn(&self) -> Lsn;
    /// A quorum reported that the commit position of the term's start is on its disks.
    fn start_commit_is_persisted(&self) -> bool;
    /// Nothing more can be committed without WAL that only the primary has.
    fn is_stuck(&self) -> bool;
    /// The last term in the history of the chosen log. Dialect `neon` needs it for its base check.
    fn last_term_of_donor(&self) -> Option<Term>;
    /// The product's own proposer, for operations that only its dialect has; `None` in dialect `neon`.
    fn holdfast_mut(&mut self) -> Option<&mut Proposer>;
    /// As [`Engine::holdfast_mut`], to read.
    fn holdfast(&self) -> Option<&Proposer>;
}

impl Engine for Proposer {
    fn connected(&mut self, node: NodeId) {
        self.connected(node);
    }
    fn disconnected(&mut self, node: NodeId) {
        self.disconnected(node);
    }
    fn receive(&mut self, from: NodeId, message: AcceptorMessage) -> Result<Vec<Action>, LostTerm> {
        self.receive(from, message)
    }
    fn poll_send(&mut self, node: NodeId) -> Option<ProposerMessage> {
        self.poll_send(node)
    }
    fn poll_fetch(&self, node: NodeId) -> Option<DonorRange> {
        self.poll_fetch(node)
    }
    fn fetched(&mut self, node: NodeId, donor: NodeId, at: Lsn, wal: &Bytes) -> bool {
        self.fetched(node, donor, at, wal)
    }
    fn approve(&mut self, wal: WalBuffer) {
        self.approve(wal);
    }
    fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        self.append(at, wal)
    }
    fn wants_wal(&self) -> bool {
        self.wants_wal()
    }
    fn received_lsn(&self) -> Lsn {
        self.received_lsn()
    }
    fn heartbeat(&mut self) {
        self.heartbeat();
    }
    fn announce_commit(&mut self) {
        self.announce_commit();
    }
    fn term(&self) -> Term {
        self.term()
    }
    fn leads(&self) -> bool {
        self.phase() == CampaignPhase::Leading
    }
    fn election(&self) -> Option<&Election> {
        self.election()
    }
    fn commit_lsn(&self) -> Lsn {
        self.commit_lsn()
    }
    fn start_commit_is_persisted(&self) -> bool {
        self.start_commit_is_persisted()
    }
    fn is_stuck(&self) -> bool {
        self.is_stuck()
    }
    fn last_term_of_donor(&self) -> Option<Term> {
        None
    }
    fn holdfast_mut(&mut self) -> Option<&mut Proposer> {
        Some(self)
    }
    fn holdfast(&self) -> Option<&Proposer> {
        Some(self)
    }
}
