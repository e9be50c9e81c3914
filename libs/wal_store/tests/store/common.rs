//! [`Proposer`]: a scripted proposer against one replica, and the helpers that all tests share.

use bytes::Bytes;
use consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, Configuration, ConnectionId, Dialect, Lineage, Member,
    ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion, TermHistory, TermStart, VoteRequest,
    VoteResponse,
};
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_store::{Disk, Input, Output, Replica, StoreError};
use wal_types::{
    Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
    Tli,
};

pub(crate) const NODE: NodeId = NodeId(1);
pub(crate) const COPY: wal_types::CopyId =
    wal_types::CopyId { node: NODE, replica: wal_types::ReplicaId([1; 16]) };
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024;
pub(crate) const START: Lsn = Lsn(SEGMENT_BYTES);

pub(crate) fn lineage() -> Lineage {
    Lineage {
        id: TenantTimelineId { tenant: TenantId([1; 16]), timeline: TimelineId([2; 16]) },
        dialect: Dialect::Holdfast,
        system_id: SystemId(77),
        pg_version: 150_018,
        segment_size: SegmentSize::new(SEGMENT_BYTES as u32).unwrap(),
        start_lsn: START,
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    }
}

pub(crate) fn configuration() -> Configuration {
    let member = |id| Member {
        id: NodeId(id),
        host: "localhost".into(),
        port: 5000 + id as u16,
        replica: wal_types::ReplicaId([id as u8; 16]),
    };
    Configuration {
        generation: Generation(1),
        members: vec![member(1), member(2), member(3)],
        ..Configuration::default()
    }
}

pub(crate) fn context() -> ScanContext {
    ScanContext { segment_size: lineage().segment_size, system_id: lineage().system_id }
}

/// Writes WAL from the start of the log on.
pub(crate) fn builder() -> WalBuilder {
    WalBuilder::new(context(), PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0))
}

pub(crate) fn create<D: Disk>(disk: &D) {
    Replica::create(disk, COPY, [5; 16], lineage(), configuration()).unwrap();
}

pub(crate) fn open<D: Disk>(disk: &D) -> Replica<D> {
    try_open(disk).unwrap()
}

pub(crate) fn try_open<D: Disk>(disk: &D) -> Result<Replica<D>, StoreError> {
    Replica::open(disk.clone(), NODE)
}

pub(crate) fn greeting() -> ProposerMessage {
    ProposerMessage::Greeting(ProposerGreeting {
        version: ProtocolVersion::Holdfast2,
        id: lineage().id,
        pg_version: 150_018,
        system_id: lineage().system_id,
        segment_bytes: lineage().segment_size.bytes(),
        tli: Tli::FIRST,
        proposer_id: ProposerId([0; 16]),
        configuration: configuration(),
    })
}

pub(crate) fn hello() -> Input {
    Input::Message(greeting())
}

/// A deterministic random number generator (SplitMix64).
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// For a power failure: nothing is kept that was not synced.
pub(crate) fn nothing_survives() -> u64 {
    0
}

/// For a power failure: all of it is kept.
pub(crate) fn all_survives() -> u64 {
    100
}

/// A proposer of one term, with the log that it writes.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) connection: ConnectionId,
    pub(crate) term: Term,
    pub(crate) history: TermHistory,
    pub(crate) builder: WalBuilder,
    /// Everything that it wrote, from the start of the log on.
    pub(crate) log: Vec<u8>,
    /// Ends of its records, ascending; the start of the log is the first.
    pub(crate) ends: Vec<Lsn>,
    pub(crate) sent: Lsn,
    pub(crate) commit_lsn: Lsn,
    /// Sent with each append: no member needs WAL below it.
    pub(crate) horizon_lsn: Lsn,
}

impl Proposer {
    /// The first proposer of an empty log.
    pub(crate) fn first(term: u64) -> Self {
        Self {
            connection: ConnectionId(term),
            term: Term(term),
            history: history(&[(term, START)]),
            builder: builder(),
            log: Vec::new(),
            ends: vec![START],
            sent: START,
            commit_lsn: START,
            horizon_lsn: START,
        }
    }

    /// A proposer that continues the log of another, from its record end number `records`.
    pub(crate) fn after(other: &Self, term: u64, records: usize) -> Self {
        let mut next = Self::first(term);
        let (mut log, mut ends) = (other.log.clone(), other.ends.clone());
        ends.truncate(records + 1);
        let end = ends[records];
        log.truncate(end.bytes_since(START) as usize);
        let mut entries = other.history.up_to(end).entries().to_vec();
        entries.push(TermStart { term: Term(term), start: end, tli: Tli::FIRST });
        next.history = TermHistory::new(entries).unwrap();
        let prev = last_record_start(&log);
        next.builder = WalBuilder::new(context(), PageMagic::POSTGRES_15, Tli::FIRST, end, prev);
        next.sent = end;
        next.commit_lsn = other.commit_lsn.min(end);
        next.horizon_lsn = other.horizon_lsn.min(end);
        (next.log, next.ends) = (log, ends);
        next
    }

    pub(crate) fn end(&self) -> Lsn {
        self.ends.last().copied().unwrap()
    }

    pub(crate) fn write(&mut self, payload: &[u8]) {
        let appended = self.builder.record(0, 0x20, payload);
        self.log.extend_from_slice(&appended.bytes);
        self.ends.push(appended.range.end);
    }

    pub(crate) fn switch(&mut self) {
        let appended = self.builder.switch();
        self.log.extend_from_slice(&appended.bytes);
        self.ends.push(appended.range.end);
    }

    /// Continues as if another record were the last one.
    pub(crate) fn forget_last_record(&mut self) {
        let prev = Lsn(self.builder.prev().0 - 8);
        self.builder = WalBuilder::new(context(), PageMagic::POSTGRES_15, Tli::FIRST, self.end(), prev);
    }

    /// Writes what a server leaves that crashes inside a record, and the overwrite record of its restart.
    pub(crate) fn abort(&mut self) {
        let appended = self.builder.overwrite_contrecord(12_000, 1);
        self.log.extend_from_slice(&appended.bytes);
        self.ends.push(appended.range.end);
    }

    pub(crate) fn message(&self, message: ProposerMessage) -> (ConnectionId, Input) {
        (self.connection, Input::Message(message))
    }

    pub(crate) fn greet(&self) -> (ConnectionId, Input) {
        self.message(greeting())
    }

    pub(crate) fn vote(&self) -> (ConnectionId, Input) {
        self.message(ProposerMessage::Vote(VoteRequest {
            replica: COPY.replica,
            generation: Generation(1),
            term: self.term,
            proposer_id: ProposerId([self.term.0 as u8; 16]),
        }))
    }

    /// The announcement that it leads from `start` on.
    pub(crate) fn elected(&self, start: Lsn) -> (ConnectionId, Input) {
        self.message(ProposerMessage::Elected(ProposerElected {
            replica: COPY.replica,
            rebase: None,
            generation: Generation(1),
            term: self.term,
            start_streaming_at: start,
            history: self.history.clone(),
            timeline_start_lsn: START,
            tli_switches: vec![],
            configuration: configuration(),
        }))
    }

    /// Appends of everything that was written but not sent.
    pub(crate) fn appends(&mut self) -> Vec<(ConnectionId, Input)> {
        self.appends_of(consensus::APPEND_WAL_BYTES_MAX as u64)
    }

    /// [`Proposer::appends`] in pieces that need not end with a record.
    pub(crate) fn appends_of(&mut self, bytes_max: u64) -> Vec<(ConnectionId, Input)> {
        let mut batch = Vec::new();
        while self.sent < self.end() {
            let end = self.sent.advance(bytes_max).min(self.end());
            batch.push(self.append_range(self.sent, end));
            self.sent = end;
        }
        batch
    }

    /// An empty append with the commit position.
    pub(crate) fn heartbeat(&self) -> (ConnectionId, Input) {
        self.append_range(self.sent, self.sent)
    }

    /// Leads from `start` on.
    pub(crate) fn start_from(&mut self, start: Lsn) {
        self.sent = start;
    }

    /// An append of any part of what was written.
    pub(crate) fn append_range(&self, begin: Lsn, end: Lsn) -> (ConnectionId, Input) {
        let wal = &self.log[begin.bytes_since(START) as usize..end.bytes_since(START) as usize];
        self.message(ProposerMessage::Append(AppendRequest {
            generation: Generation(1),
            term: self.term,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn: begin,
            commit_lsn: self.commit_lsn,
            truncate_lsn: self.horizon_lsn,
            proposer_id: ProposerId([0; 16]),
            wal: Bytes::copy_from_slice(wal),
        }))
    }

    /// Greets, gets the vote and leads from the common point on.
    pub(crate) fn lead<D: Disk>(&mut self, replica: &mut Replica<D>, start: Lsn) {
        let batch = vec![self.greet(), self.vote(), self.elected(start)];
        let output = replica.run(batch);
        assert_eq!(output.refused, [], "term {}", self.term);
        assert!(vote_of(&output).is_some_and(|vote| vote.vote_given), "term {}", self.term);
        self.sent = start;
    }
}

/// Start of the last record of a log, found by a scanner.
fn last_record_start(log: &[u8]) -> Lsn {
    let mut scanner = wal_format::RecordScanner::at_segment_start(context(), START);
    scanner.feed(log).unwrap();
    scanner.last_record_start().unwrap_or(Lsn(0))
}

pub(crate) fn history(entries: &[(u64, Lsn)]) -> TermHistory {
    let entry = |&(term, start): &(u64, Lsn)| TermStart { term: Term(term), start, tli: Tli::FIRST };
    TermHistory::new(entries.iter().map(entry).collect()).unwrap()
}

pub(crate) fn vote_of(output: &Output) -> Option<&VoteResponse> {
    output.replies.iter().rev().find_map(|(_, reply)| match reply {
        AcceptorMessage::Vote(vote) => Some(vote),
        _ => None,
    })
}

pub(crate) fn append_response_of(output: &Output) -> Option<&AppendResponse> {
    output.replies.iter().rev().find_map(|(_, reply)| match reply {
        AcceptorMessage::Append(response) => Some(response),
        _ => None,
    })
}

/// Runs a batch, and asserts that nothing is refused and nothing waits.
pub(crate) fn run<D: Disk>(replica: &mut Replica<D>, batch: Vec<(ConnectionId, Input)>) -> Output {
    let output = replica.run(batch);
    assert!(output.refused.is_empty() && output.undecided.is_empty(), "{output:?}");
    output
}

/// [`run`] without the replies.
pub(crate) fn send<D: Disk>(replica: &mut Replica<D>, batch: Vec<(ConnectionId, Input)>) {
    let _ = run(replica, batch);
}
