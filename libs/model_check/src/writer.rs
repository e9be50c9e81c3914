//! [`Writer`]: a primary's WAL and the campaign that pushes it.

use std::collections::VecDeque;

use consensus::{
    AcceptorGreeting, AcceptorMessage, CampaignPhase, Configuration, ConnectionId, PeerState,
    PreVoteResponse, Proposer, ProposerMessage, ProposerOptions, TermHistory, WalBuffer,
};
use wal_types::{NodeId, PrimaryId, ProposerId, Term, Tli};

use crate::bounds::Kind;
use crate::node::{LOG, PG_VERSION, SYSTEM_ID};
use crate::record::{RECORD_BYTES, Record, SEGMENT_SIZE, START, lsn, to_wal};
use crate::shared::Printed;
use crate::symmetry::{CONNECTION_FIRST, END, Print, id};

/// Larger than any modelled log: what a proposer has read once it keeps.
const SEND_BUFFER_BYTES_MAX: u64 = 1024;

/// A primary and its proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    /// The primary's WAL. It outlives campaigns; when the log turns out to be another one the primary is replaced by a
    /// standby that has replayed the log.
    pub(crate) wal: Vec<Record>,
    /// The term of its last campaign. It never campaigns for one twice: then a campaign needs no other name than its
    /// writer's. Zero where one term comes after the other: then it goes without saying.
    pub(crate) floor: u64,
    /// The campaign, and its term once it is won.
    pub(crate) campaign: Option<Proposer>,
    /// It leads without WAL of its own below the start of its term, and fetches from nodes what others need.
    pub(crate) fetches: bool,
}

impl Writer {
    pub(crate) fn is_leading(&self) -> bool {
        self.campaign.as_ref().is_some_and(|proposer| proposer.phase() == CampaignPhase::Leading)
    }

    /// True when the primary may write: one record at a time, the next when somebody was sent the one before.
    pub(crate) fn may_write(&self) -> bool {
        self.campaign.as_ref().filter(|_| self.is_leading()).is_some_and(|proposer| {
            let sent = PeerState::Streaming { sent: proposer.received_lsn() };
            proposer.status().iter().any(|peer| peer.state == sent)
        })
    }
}

impl Printed for Writer {
    fn print(&self) -> Print {
        let own = Print::of(&(&self.wal, self.floor, self.fetches));
        self.campaign.as_ref().map_or(own.clone(), |proposer| {
            own.with(Print::of_proposer(proposer, !self.is_leading() || self.fetches))
        })
    }
}

impl Printed for Link {
    fn print(&self) -> Print {
        Print::of(self)
    }
}

/// The primary's WAL as a proposer keeps it: one slice a record, as if it had come record by record.
pub(crate) fn buffer(wal: &[Record]) -> WalBuffer {
    let mut buffer = WalBuffer::new(START);
    for (index, record) in wal.iter().enumerate() {
        let taken = buffer.push(lsn(index), to_wal(&[*record]));
        debug_assert!(taken);
    }
    buffer
}

/// The name of the campaigns of a writer.
pub(crate) const fn campaign(writer: usize) -> ProposerId {
    ProposerId([writer as u8 + 1; 16])
}

/// The name of a writer's primary.
pub(crate) const fn primary(writer: usize) -> PrimaryId {
    PrimaryId([writer as u8 + 1; 16])
}

/// A new campaign. Nothing is remembered of earlier ones, as after a restart of the process.
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
        safekeepers: (0..nodes).map(id).chain([END]).collect(),
        send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
    })
}

/// What a node one term below `term` answers to a greeting.
pub(crate) fn surveyed_greeting(
    node_id: NodeId,
    term: u64,
    (configuration_term, configuration): (Term, Configuration),
) -> AcceptorMessage {
    let term = Term(term - 1);
    AcceptorMessage::Greeting(AcceptorGreeting { node_id, term, configuration, configuration_term })
}

/// What an empty node one term below `term` answers to a pre-vote.
pub(crate) fn surveyed_position(
    term: u64,
    (configuration_term, configuration): (Term, Configuration),
) -> AcceptorMessage {
    AcceptorMessage::PreVote(PreVoteResponse {
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

/// The connection of a writer to a node: two queues, and what an earlier connection may still bring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) is_open: bool,
    /// Changes with each connection that begins while an earlier one is still on its way.
    pub(crate) is_second: bool,
    pub(crate) to_node: VecDeque<ProposerMessage>,
    pub(crate) to_writer: VecDeque<AcceptorMessage>,
    /// Sent by a campaign that has ended, not yet arrived.
    pub(crate) late: VecDeque<ProposerMessage>,
}

/// The name of a connection.
pub(crate) fn connection(writer: usize, is_second: bool) -> ConnectionId {
    ConnectionId(CONNECTION_FIRST + (writer * 2 + usize::from(is_second)) as u64)
}

/// Names of connections that there can be.
pub(crate) const CONNECTIONS: u64 = 4;

/// The `index`-th of them.
pub(crate) const fn nth_connection(index: u64) -> ConnectionId {
    ConnectionId(CONNECTION_FIRST + index)
}

/// A message as it may arrive in pieces: appends carry one record each, so that a catch-up can end in the middle.
pub(crate) fn pieces(message: ProposerMessage) -> Vec<ProposerMessage> {
    let ProposerMessage::Append(append) = message else { return vec![message] };
    if append.wal.len() <= RECORD_BYTES {
        return vec![ProposerMessage::Append(append)];
    }
    let count = append.wal.len() / RECORD_BYTES;
    let piece = |index: usize| {
        let mut piece = append.clone();
        piece.begin_lsn = append.begin_lsn.advance((index * RECORD_BYTES) as u64);
        piece.wal = append.wal.slice(index * RECORD_BYTES..(index + 1) * RECORD_BYTES);
        ProposerMessage::Append(piece)
    };
    (0..count).map(piece).collect()
}
