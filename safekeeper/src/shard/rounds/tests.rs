//! The timelines of a shard, driven step by step.

use super::*;
use consensus::{
    AcceptorMessage, AppendRequest, Configuration, ConnectionId, Dialect, Lineage, ProposerElected,
    ProposerGreeting, ProposerMessage, ProtocolVersion, TermHistory, TermStart, VoteRequest,
};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use tempfile::TempDir;
use tokio::sync::watch;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_store::{RealDisk, Replica};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use super::super::owned_timeline::Delivery;
use crate::slots::TimelineSlots;
use pq_proto::SqlState;

const KEY: TimelineKey = TimelineKey(0);
const CONTEXT: ScanContext = ScanContext { segment_size: SEGMENT_SIZE, system_id: SystemId(7) };
const SEGMENT_SIZE: SegmentSize = match SegmentSize::new(16 * 1024) {
    Ok(size) => size,
    Err(_) => panic!("a power of two"),
};
const START: Lsn = Lsn(16 * 1024);
const TERM: Term = Term(1);

fn configuration() -> Configuration {
    let copy = wal_types::CopyId { node: NodeId(1), replica: wal_types::ReplicaId([1; 16]) };
    let only = Member { id: copy.node, host: "sk1".into(), port: 1, replica: copy.replica };
    Configuration { members: vec![only], ..Configuration::default() }
}

fn lineage() -> Lineage {
    Lineage {
        id: TenantTimelineId::default(),
        dialect: Dialect::Holdfast,
        system_id: CONTEXT.system_id,
        pg_version: 150_018,
        segment_size: SEGMENT_SIZE,
        start_lsn: START,
        start_tli: Tli::FIRST,

        birth: None,
        start_history: None,
    }
}

/// Some timelines, each with one connection, and what was delivered to each connection.
struct Driver {
    rounds: Rounds,
    delivered: BTreeMap<ConnectionId, Vec<Delivery>>,
    _directory: TempDir,
}

/// The connection of a timeline.
fn connection(key: TimelineKey) -> ConnectionId {
    ConnectionId(key.0 + 100)
}

impl Driver {
    fn new(timelines: u64, retention: Retention) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Metrics::register(&mut Registry::default());
        let mut rounds = Rounds::new(retention, metrics);
        for number in 0..timelines {
            let path = directory.path().join(format!("timeline{number}"));
            let create = |disk: &_| {
                Replica::create(
                    disk,
                    wal_types::CopyId { node: NodeId(1), replica: wal_types::ReplicaId([1; 16]) },
                    [0; 16],
                    lineage(),
                    configuration(),
                )
            };
            RealDisk::create(&path, create).unwrap();
            let disk = RealDisk::open(&path).unwrap();
            let replica = Replica::open(disk.clone(), NodeId(1)).unwrap();
            let readers = Arc::new(Readers::default());
            let slots = TimelineSlots::load(disk, replica.snapshot_cell()).unwrap();
            let (holds, changed) = (Arc::default(), watch::channel(()).0);
            let id = TenantTimelineId::default();
            let opened = OpenedTimeline { id, replica, readers, slots, holds, changed };
            let key = TimelineKey(number);
            rounds.own(key, opened);
            rounds.open_lane(key, connection(key)).unwrap();
        }
        Self { rounds, delivered: BTreeMap::new(), _directory: directory }
    }

    /// Makes the connection of each timeline its leader.
    fn elected(timelines: u64, retention: Retention) -> Self {
        let mut driver = Self::new(timelines, retention);
        for key in (0..timelines).map(TimelineKey) {
            driver.push(key, greeting());
            driver.push(key, elected());
        }
        driver.run_all();
        driver
    }

    fn push(&mut self, key: TimelineKey, message: ProposerMessage) {
        if let Some(lane) = self.rounds.lane(key, connection(key)) {
            lane.push(message);
        }
        self.rounds.enqueue(key, Instant::now());
    }

    /// One round without a limit of time, however slow the machine is.
    fn round(&mut self, bytes_max: usize) {
        let Self { rounds, delivered, .. } = self;
        rounds.round_within(bytes_max, Duration::MAX, Instant::now(), &mut |connection, delivery| {
            delivered.entry(connection).or_default().push(delivery);
        });
        self.work();
    }

    /// Does the work that the timelines gave away.
    fn work(&mut self) {
        let Self { rounds, delivered, .. } = self;
        for (key, work) in rounds.take_work().collect::<Vec<_>>() {
            rounds.finish_work(key, work.run(), Instant::now(), &mut |connection, delivery| {
                delivered.entry(connection).or_default().push(delivery);
            });
        }
    }

    fn run_all(&mut self) {
        while self.rounds.is_due() {
            self.round(ROUND_BYTES_MAX);
        }
    }

    fn tick(&mut self, seconds: u64) {
        self.rounds.tick(Duration::from_secs(seconds), &mut |_, _| {});
        self.work();
    }

    fn timeline(&self, key: TimelineKey) -> &OwnedTimeline {
        &self.rounds.timelines[&key]
    }

    /// The newest flush position that was delivered since the last call.
    fn reported_flush_lsn(&mut self, key: TimelineKey) -> Lsn {
        let mut flush_lsn = Lsn::INVALID;
        for delivery in self.delivered.remove(&connection(key)).unwrap_or_default() {
            match delivery {
                Delivery::Reply(AcceptorMessage::Append(response)) => flush_lsn = response.flush_lsn,
                Delivery::Reply(_) => {}
                Delivery::Close(reason) => panic!("{reason:?}"),
            }
        }
        flush_lsn
    }
}

fn greeting() -> ProposerMessage {
    ProposerMessage::Greeting(ProposerGreeting {
        version: ProtocolVersion::Holdfast2,
        id: lineage().id,
        pg_version: lineage().pg_version,
        system_id: lineage().system_id,
        segment_bytes: SEGMENT_SIZE.bytes(),
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
        configuration: Configuration::default(),
    })
}

fn elected() -> ProposerMessage {
    let history = TermHistory::new(vec![TermStart { term: TERM, start: START, tli: Tli::FIRST }]).unwrap();
    ProposerMessage::Elected(ProposerElected {
        replica: wal_types::ReplicaId([1; 16]),
        rebase: None,
        generation: Generation(0),
        term: TERM,
        start_streaming_at: START,
        history,
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    })
}

/// WAL of `records` records, one append each, and the end of the last one.
fn appends(records: usize) -> (Vec<ProposerMessage>, Lsn) {
    let mut builder = WalBuilder::new(CONTEXT, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0));
    let append = |_| {
        let record = builder.noop(200);
        ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: TERM,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn: record.range.start,
            commit_lsn: record.range.end,
            truncate_lsn: record.range.end,
            proposer_id: ProposerId::default(),
            wal: record.bytes.into(),
        })
    };
    let messages = (0..records).map(append).collect();
    (messages, builder.position())
}

#[test]
fn appends_of_one_round_share_one_sync() {
    let mut driver = Driver::elected(3, Retention::default());
    let (messages, end) = appends(20);
    for key in (0..3).map(TimelineKey) {
        for message in &messages {
            driver.push(key, message.clone());
        }
    }
    driver.round(ROUND_BYTES_MAX);
    let metrics = &driver.rounds.metrics;
    assert_eq!((metrics.appends.get(), metrics.wal_syncs.get()), (60, 3));
    for key in (0..3).map(TimelineKey) {
        assert_eq!(driver.reported_flush_lsn(key), end);
    }
}

/// A full round leaves the other timelines to the next rounds, and each gets its turn.
#[test]
fn full_rounds_serve_every_timeline_in_turn() {
    let mut driver = Driver::elected(3, Retention::default());
    let (messages, end) = appends(3);
    for key in (0..3).map(TimelineKey) {
        for message in &messages {
            driver.push(key, message.clone());
        }
    }
    let mut served = Vec::new();
    while driver.rounds.is_due() {
        driver.round(1);
        let now: Vec<_> =
            (0..3).filter(|&number| driver.reported_flush_lsn(TimelineKey(number)) == end).collect();
        assert_eq!(now.len(), 1, "one timeline per round");
        served.extend(now);
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2]);
}

/// A timeline without messages is visited neither by rounds nor by ticks, and its readers are not woken.
#[test]
fn idle_timelines_get_no_turn() {
    let mut driver = Driver::elected(3, Retention::default());
    let (messages, _) = appends(1);
    driver.push(KEY, messages[0].clone());
    driver.run_all();
    for second in 1..20 {
        driver.tick(second);
    }
    assert!(driver.rounds.due.is_empty() && !driver.rounds.is_due());

    let announced = |driver: &Driver| {
        let timelines = driver.rounds.timelines.values();
        timelines.map(|timeline| Arc::clone(&timeline.announced)).collect::<Vec<_>>()
    };
    let before = announced(&driver);
    let (messages, end) = appends(2);
    driver.push(KEY, messages[1].clone());
    assert_eq!(Vec::from(driver.rounds.queue.clone()), [KEY]);
    driver.round(ROUND_BYTES_MAX);
    assert_eq!(driver.reported_flush_lsn(KEY), end);
    assert_eq!(driver.rounds.due, BTreeSet::from([(Duration::ZERO, KEY)]));
    driver.tick(20);
    for (number, (before, after)) in before.iter().zip(announced(&driver)).enumerate() {
        assert_eq!(Arc::ptr_eq(before, &after), number > 0, "timeline {number}");
    }
}

/// A share of the idle timelines gets a tick each time, so that all have one in a while.
#[test]
fn every_idle_timeline_gets_ticks_in_turn() {
    let mut driver = Driver::new(3, Retention::default());
    driver.tick(1);
    assert!(driver.rounds.due.is_empty());
    let mut next = Vec::new();
    for second in 2..8 {
        next.push(driver.rounds.next_idle.0);
        driver.tick(second);
    }
    assert_eq!(next, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn tick_removes_wal_that_no_reader_needs() {
    let retention = Retention { wal_keep_bytes: 0, ..Retention::default() };
    let mut driver = Driver::elected(1, retention);
    let reader = driver.timeline(KEY).opened.readers.register(START);
    let (messages, end) = appends(400);
    for message in messages {
        driver.push(KEY, message);
        driver.round(ROUND_BYTES_MAX);
    }
    let oldest = |driver: &Driver| driver.timeline(KEY).opened.replica.snapshot().oldest_lsn;
    driver.tick(5);
    driver.tick(6);
    assert_eq!(oldest(&driver), START, "a reader still needs it");
    let read_up_to = Lsn(START.0 + 2 * 16 * 1024 + 8);
    reader.record_sent(read_up_to);
    driver.tick(7);
    assert_eq!(oldest(&driver), Lsn(START.0 + 2 * 16 * 1024));
    drop(reader);
    driver.tick(8);
    assert_eq!(oldest(&driver), end.align_down(16 * 1024));
}

#[test]
fn disconnect_removes_lane() {
    let mut driver = Driver::new(1, Retention::default());
    driver.rounds.disconnect(KEY, connection(KEY), Instant::now());
    driver.round(ROUND_BYTES_MAX);
    assert_eq!(driver.timeline(KEY).lanes.count(), 0);
}

#[test]
fn refusal_closes_connection_and_removes_lane() {
    let mut driver = Driver::new(1, Retention::default());
    let vote = ProposerMessage::Vote(VoteRequest {
        replica: wal_types::ReplicaId([1; 16]),
        generation: Generation(0),
        term: Term(1),
        proposer_id: ProposerId::default(),
    });
    driver.push(KEY, vote.clone());
    driver.round(ROUND_BYTES_MAX);
    let delivered = &driver.delivered[&connection(KEY)];
    let [Delivery::Close(reason)] = &delivered[..] else { panic!("the vote was not refused: {delivered:?}") };
    assert_eq!(reason.sqlstate, SqlState::PROTOCOL_VIOLATION);
    // Later messages of the connection are dropped.
    driver.push(KEY, vote);
    driver.round(ROUND_BYTES_MAX);
    let timeline = driver.timeline(KEY);
    assert_eq!((timeline.lanes.count(), timeline.opened.replica.snapshot().term), (0, Term::ZERO));
}
