//! [`Engine`] of a [`NeonProposer`]: its inputs and its messages.

use bytes::Bytes;
use consensus::{
    APPEND_WAL_BYTES_MAX, AcceptorMessage, Action, Configuration, DonorRange, Election, LostTerm, PeerState,
    Proposer, ProposerGreeting, ProposerMessage, WalBuffer,
};
use wal_types::{Lsn, NodeId, SystemId, TenantTimelineId, Term, Tli};

use super::peer::NeonPeer;
use super::{NeonProposer, Stage};
use crate::engine::Engine;
use crate::primary::{CONTEXT, SEGMENT_SIZE};

impl Engine for NeonProposer {
    fn connected(&mut self, node: NodeId) {
        let greeting = ProposerGreeting {
            version: self.version,
            id: TenantTimelineId::default(),
            pg_version: if self.has_primary { 150_000 } else { 0 },
            system_id: if self.has_primary { CONTEXT.system_id } else { SystemId::default() },
            segment_bytes: SEGMENT_SIZE.bytes(),
            tli: Tli::FIRST,
            proposer_id: self.name(),
            configuration: Configuration::default(),
        };
        self.disconnected(node);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Greeting;
            peer.outbox.push_back(ProposerMessage::Greeting(greeting));
        }
    }

    fn disconnected(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Offline;
            peer.outbox.clear();
            peer.told_commit = Lsn::INVALID;
        }
    }

    fn receive(&mut self, from: NodeId, message: AcceptorMessage) -> Result<Vec<Action>, LostTerm> {
        let (reported, expected) = match &message {
            AcceptorMessage::Greeting(greeting) => (greeting.term, PeerState::Greeting),
            AcceptorMessage::Vote(vote) => (vote.term, PeerState::Voting),
            AcceptorMessage::Append(append) => (append.term, PeerState::Offline),
            _ => return Ok(vec![Action::Reset(from)]),
        };

        if self.stage != Stage::CollectingTerms && reported > self.term {
            return Err(LostTerm::Deposed { by: from, term: reported, own: self.term });
        }

        let Some(peer) = self.peers.get(&from) else { return Ok(Vec::new()) };
        match message {
            AcceptorMessage::Greeting(greeting) if peer.state == expected => {
                self.greeted(from, greeting.term);
                Ok(Vec::new())
            }
            AcceptorMessage::Vote(vote) if peer.state == expected => self.voted(from, vote),
            AcceptorMessage::Append(append) if peer.sent().is_some() => {
                Ok(self.acknowledged(from, append.flush_lsn, append.commit_lsn))
            }
            _ => Ok(vec![Action::Reset(from)]),
        }
    }

    fn poll_send(&mut self, node: NodeId) -> Option<ProposerMessage> {
        let peer = self.peers.get_mut(&node)?;
        if let Some(message) = peer.outbox.pop_front() {
            return Some(message);
        }
        let sent = peer.sent()?;
        let wal = self.wal.read(sent, APPEND_WAL_BYTES_MAX);
        if wal.is_empty() && !peer.heartbeat {
            return None;
        }
        Some(self.append_message(node, sent, wal))
    }

    fn poll_fetch(&self, node: NodeId) -> Option<DonorRange> {
        let from = self.peers.get(&node)?.sent()?;
        let election = self.election.as_ref()?;
        let needed = from < self.wal.start() && election.donor != node;
        needed.then_some(DonorRange { donor: election.donor, from, until: self.wal.start() })
    }

    fn fetched(&mut self, node: NodeId, _donor: NodeId, at: Lsn, wal: &Bytes) -> bool {
        if self.peers.get(&node).and_then(NeonPeer::sent) != Some(at) {
            return false;
        }
        let message = self.append_message(node, at, wal.clone());
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.outbox.push_back(message);
        }
        true
    }

    fn approve(&mut self, wal: WalBuffer) {
        self.wal = wal;
        self.stage = Stage::Leading;
        let voted = |(&id, peer): (&NodeId, &NeonPeer)| (peer.state == PeerState::Voted).then_some(id);
        let voted: Vec<NodeId> = self.peers.iter().filter_map(voted).collect();
        voted.into_iter().for_each(|node| self.lead(node));
    }

    fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        self.wal.push(at, wal)
    }

    fn wants_wal(&self) -> bool {
        self.stage == Stage::Leading
    }

    fn received_lsn(&self) -> Lsn {
        self.wal.end()
    }

    fn heartbeat(&mut self) {
        self.peers.values_mut().filter(|peer| peer.sent().is_some()).for_each(|peer| peer.heartbeat = true);
    }

    fn announce_commit(&mut self) {
        let commit = self.commit_lsn;
        let behind = self.peers.values_mut().filter(|peer| peer.told_commit < commit);
        behind.for_each(|peer| peer.heartbeat = true);
    }

    fn term(&self) -> Term {
        self.term
    }

    fn leads(&self) -> bool {
        self.stage == Stage::Leading
    }

    fn election(&self) -> Option<&Election> {
        self.election.as_ref()
    }

    fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    fn start_commit_is_persisted(&self) -> bool {
        let start = self.election.as_ref().map_or(Lsn::MAX, |election| election.start);
        let persisted = |peer: &NeonPeer| peer.persisted_commit >= start;
        self.quorum(persisted)
            && self.peers.values().all(|peer| peer.state == PeerState::Offline || persisted(peer))
    }

    fn is_stuck(&self) -> bool {
        false
    }

    fn last_term_of_donor(&self) -> Option<Term> {
        let donor = self.peers.get(&self.election.as_ref()?.donor)?;
        donor.vote.as_ref()?.history.last().map(|entry| entry.term)
    }

    fn holdfast_mut(&mut self) -> Option<&mut Proposer> {
        None
    }

    fn holdfast(&self) -> Option<&Proposer> {
        None
    }
}
