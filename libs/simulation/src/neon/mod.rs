//! [`NeonProposer`]: proposer of the public protocol, versions 2 and 3, for timelines of dialect `neon`.
//!
//! It behaves like the public proposer on the wire: it greets, takes the highest term plus one, requests votes, ends
//! its campaign at the first refusal, and finds the point where two logs part by comparing the histories entry by
//! entry. It sends no pre-vote. It shares no rule with the product's own proposer: neither the quorum, nor the common
//! point, nor the commit position.

mod engine;
mod peer;

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::{
    Action, AppendRequest, Configuration, Election, LostTerm, PeerState, ProposerElected, ProposerMessage,
    ProtocolVersion, TermHistory, TermStart, VoteRequest, VoteResponse, WalBuffer,
};
use wal_types::{Generation, Lsn, NodeId, ProposerId, Term, Tli};

use self::peer::NeonPeer;
use crate::invariants::majority;

/// One campaign in dialect `neon`.
pub(crate) struct NeonProposer {
    version: ProtocolVersion,
    id: ProposerId,
    has_primary: bool,
    term: Term,
    stage: Stage,
    peers: BTreeMap<NodeId, NeonPeer>,
    election: Option<Election>,
    history: TermHistory,
    truncate_lsn: Lsn,
    wal: WalBuffer,
    commit_lsn: Lsn,
}

/// Stage of a campaign.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    CollectingTerms,
    Campaign,
    Elected,
    Leading,
}

impl NeonProposer {
    pub(crate) fn new(
        version: ProtocolVersion,
        id: ProposerId,
        has_primary: bool,
        safekeepers: &[NodeId],
    ) -> Self {
        Self {
            version,
            id,
            has_primary,
            term: Term::ZERO,
            stage: Stage::CollectingTerms,
            peers: safekeepers.iter().map(|&node| (node, NeonPeer::default())).collect(),
            election: None,
            history: TermHistory::default(),
            truncate_lsn: Lsn::INVALID,
            wal: WalBuffer::new(Lsn::INVALID),
            commit_lsn: Lsn::INVALID,
        }
    }

    /// The proposer id on the wire: version 2 names the campaign, version 3 does not.
    fn name(&self) -> ProposerId {
        if self.version == ProtocolVersion::V2 { self.id } else { ProposerId::default() }
    }

    fn quorum(&self, has: impl Fn(&NeonPeer) -> bool) -> bool {
        self.peers.values().filter(|peer| has(peer)).count() >= majority(self.peers.len())
    }

    fn greeted(&mut self, from: NodeId, term: Term) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.state = PeerState::Greeted;
            peer.term = term;
        }

        if self.stage != Stage::CollectingTerms {
            return self.request_vote(from);
        }

        if self.quorum(|peer| peer.state == PeerState::Greeted) {
            let highest = self.peers.values().map(|peer| peer.term).max().unwrap_or_default();
            self.term = Term(highest.0 + 1);
            self.stage = Stage::Campaign;
            let greeted =
                |(&id, peer): (&NodeId, &NeonPeer)| (peer.state == PeerState::Greeted).then_some(id);
            let greeted: Vec<NodeId> = self.peers.iter().filter_map(greeted).collect();
            greeted.into_iter().for_each(|node| self.request_vote(node));
        }
    }

    fn request_vote(&mut self, node: NodeId) {
        let request = VoteRequest {
            replica: wal_types::ReplicaId::default(),
            generation: Generation::default(),
            term: self.term,
            proposer_id: self.name(),
        };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Voting;
            peer.outbox.push_back(ProposerMessage::Vote(request));
        }
    }

    fn voted(&mut self, from: NodeId, vote: VoteResponse) -> Result<Vec<Action>, LostTerm> {
        if self.stage == Stage::Campaign && !vote.vote_given {
            return Err(LostTerm::Outvoted(self.term));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.state = PeerState::Voted;
            peer.vote = Some(vote);
        }
        match self.stage {
            Stage::Campaign if self.quorum(|peer| peer.state == PeerState::Voted) => Ok(self.elect()),
            Stage::Leading => {
                self.lead(from);
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn elect(&mut self) -> Vec<Action> {
        let votes = self.peers.iter().filter(|(_, peer)| peer.state == PeerState::Voted);
        let votes = votes.filter_map(|(&id, peer)| Some((id, peer.vote.clone()?)));
        let votes: Vec<(NodeId, VoteResponse)> = votes.collect();
        let last_log_term = |vote: &VoteResponse| {
            let reached = vote.history.entries().iter().filter(|entry| entry.start <= vote.flush_lsn);
            reached.map(|entry| entry.term).next_back().unwrap_or_default()
        };

        let newest = votes.iter().max_by_key(|(_, vote)| (last_log_term(vote), vote.flush_lsn));

        let Some((donor, newest)) = newest else { return Vec::new() };
        let start = newest.flush_lsn;
        self.truncate_lsn = votes.iter().map(|(_, vote)| vote.truncate_lsn).max().unwrap_or_default();

        let mut entries = newest.history.entries().to_vec();
        entries.push(TermStart { term: self.term, start, tli: Tli::FIRST });
        self.history = TermHistory::new(entries).unwrap_or_default();

        let election = Election {
            term: self.term,
            start,
            log_start: crate::primary::START,
            donor: *donor,
            tli: Some(Tli::FIRST),
        };

        self.election = Some(election.clone());
        self.stage = Stage::Elected;
        vec![Action::Elected(election)]
    }

    fn lead(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(vote) = &peer.vote else { return };
        let start = common_point(self.history.entries(), vote.history.entries(), vote.flush_lsn);
        peer.outbox.push_back(ProposerMessage::Elected(ProposerElected {
            replica: wal_types::ReplicaId::default(),
            rebase: None,
            generation: Generation::default(),
            term: self.term,
            start_streaming_at: start,
            history: self.history.clone(),
            timeline_start_lsn: vote.timeline_start_lsn,
            tli_switches: Vec::new(),
            configuration: Configuration::default(),
        }));
        peer.state = PeerState::Streaming { sent: start };
        peer.heartbeat = true;
    }

    fn append_message(&mut self, node: NodeId, begin_lsn: Lsn, wal: Bytes) -> ProposerMessage {
        let v2 = self.version == ProtocolVersion::V2;
        let start = self.election.as_ref().map_or(Lsn::INVALID, |election| election.start);
        let append = AppendRequest {
            generation: Generation::default(),
            term: self.term,
            epoch_start_lsn: if v2 { start } else { Lsn::INVALID },
            begin_lsn,
            commit_lsn: self.commit_lsn,
            truncate_lsn: self.truncate_lsn,
            proposer_id: self.name(),
            wal,
        };

        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Streaming { sent: append.end_lsn() };
            peer.told_commit = self.commit_lsn;
            peer.heartbeat = false;
        }
        ProposerMessage::Append(append)
    }

    fn acknowledged(&mut self, from: NodeId, flush_lsn: Lsn, commit_lsn: Lsn) -> Vec<Action> {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.acked = peer.acked.max(flush_lsn);
            peer.persisted_commit = peer.persisted_commit.max(commit_lsn);
        }
        let start = self.election.as_ref().map_or(Lsn::MAX, |election| election.start);
        let counted = |peer: &NeonPeer| if peer.acked < start { Lsn::INVALID } else { peer.acked };
        let mut acked: Vec<Lsn> = self.peers.values().map(counted).collect();
        acked.sort_unstable();
        let commit = acked[acked.len() - majority(acked.len())];
        self.truncate_lsn = self.truncate_lsn.max(acked[0].min(commit));
        if commit <= self.commit_lsn {
            return Vec::new();
        }
        self.commit_lsn = commit;
        vec![Action::Committed(commit)]
    }
}

/// End of the last term that both histories have in common: where the next term begins in either, or where the
/// safekeeper's log ends. For an empty log it is the start of the proposer's history.
fn common_point(proposer: &[TermStart], safekeeper: &[TermStart], flush_lsn: Lsn) -> Lsn {
    let common = proposer.iter().zip(safekeeper).take_while(|(one, other)| one.term == other.term).count();
    if common == 0 {
        return proposer[0].start;
    }
    let end = |history: &[TermStart]| history.get(common).map_or(flush_lsn, |next| next.start);
    end(proposer).min(end(safekeeper))
}
