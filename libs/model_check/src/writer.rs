//! [`Writer`]: a primary's WAL and the campaign that pushes it.

use consensus::{
    AcceptorGreeting, AcceptorMessage, CampaignPhase, Configuration, PeerState, PreVoteResponse, Proposer,
    ProposerOptions, TermHistory, WalBuffer,
};
use wal_types::{NodeId, Term, Tli};

use crate::bounds::Kind;
use crate::names::{LOG, PG_VERSION, SENTINEL, SYSTEM_ID, campaign, id, primary};
use crate::record::{Record, SEGMENT_SIZE, START, lsn, to_wal};
use crate::shared::Fingerprinted;
use crate::symmetry::Fingerprint;

/// Send buffer of a proposer, in bytes: larger than any modelled log, so that a proposer keeps what it has read.
const SEND_BUFFER_BYTES_MAX: u64 = 1024;

/// A primary and its proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    /// The primary's WAL. It outlives campaigns. When the log turns out to be another one, a standby that replayed the
    /// log replaces the primary.
    pub(crate) wal: Vec<Record>,
    /// The term of its last campaign. A writer never campaigns twice for one term, so the writer's name is enough for a
    /// campaign. Zero where one term follows the other, because then the rule holds by itself.
    pub(crate) last_term: u64,
    /// The campaign, and its term after the election.
    pub(crate) campaign: Option<Proposer>,
}

impl Writer {
    pub(crate) fn is_leading(&self) -> bool {
        self.campaign.as_ref().is_some_and(|proposer| proposer.phase() == CampaignPhase::Leading)
    }

    /// True when the primary may write: one record at a time, the next when the previous one was sent to a node.
    pub(crate) fn may_write(&self) -> bool {
        self.campaign.as_ref().filter(|_| self.is_leading()).is_some_and(|proposer| {
            let sent = PeerState::Streaming { sent: proposer.received_lsn() };
            proposer.status().iter().any(|peer| peer.state == sent)
        })
    }
}

impl Fingerprinted for Writer {
    fn fingerprint(&self) -> Fingerprint {
        let own = Fingerprint::of(&(&self.wal, self.last_term));
        match &self.campaign {
            Some(proposer) => own.with(Fingerprint::of_proposer(proposer)),
            None => own,
        }
    }
}

/// The primary's WAL as a proposer keeps it: one slice per record, as if it had arrived record by record.
pub(crate) fn buffer(wal: &[Record]) -> WalBuffer {
    let mut buffer = WalBuffer::new(START);
    for (index, record) in wal.iter().enumerate() {
        let taken = buffer.push(lsn(index), to_wal(&[*record]));
        debug_assert!(taken);
    }
    buffer
}

/// A new proposer without any memory of earlier campaigns, as after a restart of the process.
pub(crate) fn proposer(writer: usize, nodes: usize, kind: Kind) -> Proposer {
    Proposer::new(ProposerOptions {
        id: LOG,
        proposer_id: campaign(writer),
        segment_size: SEGMENT_SIZE,
        system_id: SYSTEM_ID,
        pg_version: PG_VERSION,
        tli: Some(Tli::FIRST),
        primary: (kind == Kind::Primary).then_some(primary(writer)),
        term_floor: Term::ZERO,
        safekeepers: (0..nodes).map(id).chain([SENTINEL]).collect(),
        send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
    })
}

/// The greeting of a node in the term before `term`.
pub(crate) fn pre_vote_greeting(
    node_id: NodeId,
    term: u64,
    (configuration_term, configuration): (Term, Configuration),
) -> AcceptorMessage {
    let term = Term(term - 1);
    AcceptorMessage::Greeting(AcceptorGreeting {
        replica: wal_types::ReplicaId::default(),
        birth: None,
        node_id,
        term,
        configuration,
        configuration_term,
    })
}

/// The pre-vote reply of an empty node in the term before `term`.
pub(crate) fn pre_vote_response(
    term: u64,
    (configuration_term, configuration): (Term, Configuration),
) -> AcceptorMessage {
    AcceptorMessage::PreVote(PreVoteResponse {
        heard: consensus::LeaderHeard::default(),
        generation: configuration.generation,
        term: Term(term - 1),
        flush_lsn: START,
        commit_lsn: START,
        start_lsn: START,
        history: TermHistory::default(),
        tli_switches: Vec::new(),
        configuration,
        configuration_term,
        lost: false,
    })
}
