//! Disk threads, driven step by step.

use super::*;
use consensus::{
    AcceptorMessage, AppendRequest, Configuration, ConnectionId, Dialect, Lineage, ProposerElected,
    ProposerGreeting, ProposerMessage, ProtocolVersion, TermHistory, TermStart, VoteRequest,
};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use tempfile::TempDir;
use tokio::sync::watch;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_store::{Input, RealDisk, Replica};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use super::super::lane_queues::Queued;
use super::super::mailbox::{Mail, Mailbox};
use crate::data_dir::DataDir;
use crate::feedback::Readers;

const KEY: TimelineKey = TimelineKey(0);
const CONNECTION: ConnectionId = ConnectionId(7);
const CONTEXT: ScanContext = ScanContext { segment_size: SEGMENT_SIZE, system_id: SystemId(7) };
const SEGMENT_SIZE: SegmentSize = match SegmentSize::new(16 * 1024) {
    Ok(size) => size,
    Err(_) => panic!("a power of two"),
};
const START: Lsn = Lsn(16 * 1024);
const TERM: Term = Term(1);

fn lineage() -> Lineage {
    Lineage {
        id: TenantTimelineId::default(),
        dialect: Dialect::Holdfast,
        system_id: CONTEXT.system_id,
        pg_version: 150_018,
        segment_size: SEGMENT_SIZE,
        start_lsn: START,
        start_tli: Tli::FIRST,
    }
}

/// A thread that owns some timelines, each with one connection. It does not run: the test calls its methods.
fn thread_with(directory: &TempDir, timelines: u64, retention: Retention) -> (DiskThread, Vec<Mailbox>) {
    let data_dir = DataDir::open(directory.path(), NodeId(1)).unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let mut thread = DiskThread::new(channel().1, retention, metrics, data_dir.lock());
    let mut mailboxes = Vec::new();
    for number in 0..timelines {
        let path = directory.path().join(format!("timeline{number}"));
        let create =
            |disk: &_| Replica::create(disk, NodeId(1), [0; 16], lineage(), Configuration::default());
        RealDisk::create(&path, create).unwrap();
        let replica = Replica::open(RealDisk::open(&path).unwrap(), NodeId(1)).unwrap();
        let readers = Arc::new(Readers::default());
        let changed = watch::channel(()).0;
        let opened = OpenedTimeline { id: TenantTimelineId::default(), replica, readers, changed };
        let (key, mailbox) = (TimelineKey(number), Mailbox::default());
        thread.handle(DiskCommand::Own { key, timeline: Box::new(opened) });
        thread.handle(DiskCommand::OpenLane { key, connection: CONNECTION, mailbox: mailbox.clone() });
        mailboxes.push(mailbox);
    }
    (thread, mailboxes)
}

fn thread(directory: &TempDir) -> (DiskThread, Mailbox) {
    let (thread, mut mailboxes) = thread_with(directory, 1, Retention::default());
    (thread, mailboxes.remove(0))
}

fn enqueue(thread: &mut DiskThread, input: Input) {
    enqueue_for(thread, KEY, input);
}

fn enqueue_for(thread: &mut DiskThread, key: TimelineKey, input: Input) {
    let queued = Queued { input, permit: None };
    thread.handle(DiskCommand::Enqueue { key, connection: CONNECTION, queued });
}

fn round(thread: &mut DiskThread) -> &OwnedTimeline {
    thread.round();
    &thread.timelines[&KEY]
}

/// Makes the connection of each timeline its leader.
fn elect(thread: &mut DiskThread, timelines: u64) {
    let history = TermHistory::new(vec![TermStart { term: TERM, start: START, tli: Tli::FIRST }]).unwrap();
    let greeting = ProposerMessage::Greeting(ProposerGreeting {
        version: ProtocolVersion::Holdfast1,
        id: lineage().id,
        pg_version: lineage().pg_version,
        system_id: lineage().system_id,
        segment_bytes: SEGMENT_SIZE.bytes(),
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
        configuration: Configuration::default(),
    });
    let elected = ProposerMessage::Elected(ProposerElected {
        generation: Generation(0),
        term: TERM,
        start_streaming_at: START,
        history,
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    });
    for key in (0..timelines).map(TimelineKey) {
        for message in [greeting.clone(), elected.clone()] {
            enqueue_for(thread, key, Input::Message(message));
        }
    }
    while thread.is_due() {
        thread.round();
    }
}

/// WAL of `records` records, one append each, and the end of the last one.
fn appends(records: usize) -> (Vec<Input>, Lsn) {
    let mut builder = WalBuilder::new(CONTEXT, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0));
    let append = |_| {
        let record = builder.noop(200);
        Input::Message(ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: TERM,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn: record.range.start,
            commit_lsn: record.range.end,
            truncate_lsn: record.range.end,
            proposer_id: ProposerId::default(),
            wal: record.bytes.into(),
        }))
    };
    let inputs = (0..records).map(append).collect();
    (inputs, builder.position())
}

/// The newest flush position in the mailbox.
fn reported_flush_lsn(mailbox: &Mailbox) -> Lsn {
    let mut flush_lsn = Lsn::INVALID;
    while let Some(mail) = mailbox.try_next() {
        match mail {
            Mail::Reply(AcceptorMessage::Append(response)) => flush_lsn = response.flush_lsn,
            Mail::Reply(_) => {}
            Mail::Close(reason) => panic!("{reason:?}"),
        }
    }
    flush_lsn
}

#[test]
fn appends_of_one_round_share_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailboxes) = thread_with(&directory, 3, Retention::default());
    elect(&mut thread, 3);
    let (inputs, end) = appends(20);
    for key in (0..3).map(TimelineKey) {
        for input in &inputs {
            enqueue_for(&mut thread, key, input.clone());
        }
    }
    // However slow the machine is.
    thread.round_within(ROUND_BYTES_MAX, Duration::MAX);
    assert_eq!((thread.metrics.appends.get(), thread.metrics.wal_syncs.get()), (60, 3));
    for mailbox in &mailboxes {
        assert_eq!(reported_flush_lsn(mailbox), end);
    }
}

/// A full round leaves the other timelines to the next rounds, and each gets its turn.
#[test]
fn full_rounds_serve_every_timeline_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailboxes) = thread_with(&directory, 3, Retention::default());
    elect(&mut thread, 3);
    let (inputs, end) = appends(3);
    for key in (0..3).map(TimelineKey) {
        for input in &inputs {
            enqueue_for(&mut thread, key, input.clone());
        }
    }
    let mut served = Vec::new();
    while thread.is_due() {
        thread.round_within(1, Duration::MAX);
        let now: Vec<_> = (0..3).filter(|&number| reported_flush_lsn(&mailboxes[number]) == end).collect();
        assert_eq!(now.len(), 1, "one timeline per round");
        served.extend(now);
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2]);
}

#[test]
fn tick_removes_wal_that_no_reader_needs() {
    let directory = tempfile::tempdir().unwrap();
    let retention = Retention { wal_keep_bytes: 0, ..Retention::default() };
    let (mut thread, _mailboxes) = thread_with(&directory, 1, retention);
    elect(&mut thread, 1);
    let reader = thread.timelines[&KEY].opened.readers.register(START);
    let (inputs, end) = appends(400);
    for input in inputs {
        enqueue(&mut thread, input);
        thread.round();
    }
    let oldest = |thread: &DiskThread| thread.timelines[&KEY].opened.replica.snapshot().oldest_lsn;
    thread.tick(Duration::from_secs(5));
    thread.tick(Duration::from_secs(6));
    assert_eq!(oldest(&thread), START, "a reader still needs it");
    let read_up_to = Lsn(START.0 + 2 * 16 * 1024 + 8);
    reader.record_sent(read_up_to);
    thread.tick(Duration::from_secs(7));
    assert_eq!(oldest(&thread), Lsn(START.0 + 2 * 16 * 1024));
    drop(reader);
    thread.tick(Duration::from_secs(8));
    assert_eq!(oldest(&thread), end.align_down(16 * 1024));
}

/// An attempt that succeeds at this call, and the count of its calls.
fn attempt(succeeds_at: u32) -> (OpenAttempt, Arc<AtomicU32>) {
    let tried = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&tried);
    (Box::new(move || counter.fetch_add(1, Ordering::Relaxed) + 1 == succeeds_at), tried)
}

/// After a failed attempt the thread pauses; after a success the next attempt follows at once.
#[test]
fn failed_open_attempt_pauses_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, _mailbox) = thread(&directory);
    let (attempts, tried): (Vec<_>, Vec<_>) = [attempt(3), attempt(1), attempt(1)].into_iter().unzip();
    let before = Instant::now();
    for attempt in attempts {
        thread.handle(DiskCommand::RetryOpen(attempt));
    }
    let tried = || tried.iter().map(|tried| tried.load(Ordering::Relaxed)).collect::<Vec<_>>();
    thread.try_open_next();
    assert_eq!(tried(), [0, 0, 0], "each attempt has just failed");
    assert!(thread.next_attempt_at >= before + OPEN_RETRY_INTERVAL);
    for expected in [[1, 0, 0], [2, 1, 1], [3, 1, 1]] {
        thread.next_attempt_at = Instant::now();
        for _ in 0..4 {
            thread.try_open_next();
        }
        assert_eq!(tried(), expected);
    }
    assert!(thread.open_attempts.is_empty());
}

#[test]
fn disconnect_removes_lane_and_mailbox() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, _mailbox) = thread(&directory);
    thread.handle(DiskCommand::CloseLane { key: KEY, connection: CONNECTION });
    let timeline = round(&mut thread);
    assert!(timeline.mailboxes.is_empty() && timeline.lanes.is_empty());
}

#[test]
fn refusal_removes_lane_and_mailbox() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailbox) = thread(&directory);
    let request =
        VoteRequest { generation: Generation(0), term: Term(1), proposer_id: ProposerId::default() };
    enqueue(&mut thread, Input::Message(ProposerMessage::Vote(request)));
    round(&mut thread);
    let Some(Mail::Close(reason)) = mailbox.try_next() else { panic!("the vote was not refused") };
    assert_eq!(reason.sqlstate, SqlState::PROTOCOL_VIOLATION);
    // Later messages of the connection are dropped.
    enqueue(&mut thread, Input::Message(ProposerMessage::Vote(request)));
    let timeline = round(&mut thread);
    assert!(timeline.mailboxes.is_empty() && timeline.lanes.is_empty());
    assert_eq!(timeline.opened.replica.snapshot().term, Term::ZERO);
}
