//! Disk threads, run by hand.

use super::*;
use consensus::{
    AcceptorMessage, AppendRequest, Configuration, Dialect, Lineage, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermStart, VoteRequest,
};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, Term, Tli};

use super::super::mailbox::Mail;
use crate::data_dir::DataDir;

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

/// A thread's content with some timelines, each with one connection, run by hand.
fn thread_with(directory: &TempDir, timelines: u64, retention: Retention) -> (DiskThread, Vec<Mailbox>) {
    let data_dir = DataDir::open(directory.path(), NodeId(1)).unwrap();
    let mut thread = DiskThread {
        inbox: channel().1,
        timelines: BTreeMap::new(),
        attempts: VecDeque::new(),
        attempt_at: Instant::now(),
        begin_with: KEY,
        retention,
        metrics: Metrics::register(&mut Registry::default()),
        _lock: data_dir.lock(),
    };
    let mut mailboxes = Vec::new();
    for number in 0..timelines {
        let path = directory.path().join(format!("timeline{number}"));
        let create =
            |disk: &_| Replica::create(disk, NodeId(1), [0; 16], lineage(), Configuration::default());
        RealDisk::create(&path, create).unwrap();
        let replica = Replica::open(RealDisk::open(&path).unwrap(), NodeId(1)).unwrap();
        let readers = Arc::new(Readers::default());
        let changed = watch::channel(()).0;
        let owned = Owned { id: TenantTimelineId::default(), replica, readers, changed };
        let (key, mailbox) = (TimelineKey(number), Mailbox::default());
        thread.follow(Order::Own { key, timeline: Box::new(owned) });
        thread.follow(Order::Attach { key, connection: CONNECTION, mailbox: mailbox.clone() });
        mailboxes.push(mailbox);
    }
    (thread, mailboxes)
}

fn thread(directory: &TempDir) -> (DiskThread, Mailbox) {
    let (thread, mut mailboxes) = thread_with(directory, 1, Retention::default());
    (thread, mailboxes.remove(0))
}

fn say(thread: &mut DiskThread, input: Input) {
    say_to(thread, KEY, input);
}

fn say_to(thread: &mut DiskThread, key: TimelineKey, input: Input) {
    let queued = Queued { input, permit: None };
    thread.follow(Order::Queue { key, connection: CONNECTION, queued });
}

fn round(thread: &mut DiskThread) -> &Served {
    thread.round();
    &thread.timelines[&KEY]
}

/// Makes the connection of each timeline its leader.
fn lead(thread: &mut DiskThread, timelines: u64) {
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
            say_to(thread, key, Input::Message(message));
        }
    }
    while thread.is_due() {
        thread.round();
    }
}

/// WAL of so many records, one to an append; and where it ends.
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

/// What the mailbox says is durable.
fn told(mailbox: &Mailbox) -> Lsn {
    let mut flush_lsn = Lsn::INVALID;
    while let Some(mail) = mailbox.try_take() {
        match mail {
            Mail::Message(AcceptorMessage::Append(response)) => flush_lsn = response.flush_lsn,
            Mail::Message(_) => {}
            Mail::End(reason) => panic!("{reason:?}"),
        }
    }
    flush_lsn
}

#[test]
fn the_appends_of_a_round_share_one_sync_a_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailboxes) = thread_with(&directory, 3, Retention::default());
    lead(&mut thread, 3);
    let (inputs, end) = appends(20);
    for key in (0..3).map(TimelineKey) {
        for input in &inputs {
            say_to(&mut thread, key, input.clone());
        }
    }
    // However slow the machine is.
    thread.round_within(ROUND_BYTES_MAX, Duration::MAX);
    assert_eq!((thread.metrics.appends.get(), thread.metrics.wal_syncs.get()), (60, 3));
    for mailbox in &mailboxes {
        assert_eq!(told(mailbox), end);
    }
}

#[test]
fn a_round_that_is_full_leaves_the_rest_to_the_next_and_nobody_starves() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailboxes) = thread_with(&directory, 3, Retention::default());
    lead(&mut thread, 3);
    let (inputs, end) = appends(3);
    for key in (0..3).map(TimelineKey) {
        for input in &inputs {
            say_to(&mut thread, key, input.clone());
        }
    }
    let mut served = Vec::new();
    while thread.is_due() {
        thread.round_within(1, Duration::MAX);
        let now: Vec<_> = (0..3).filter(|&number| told(&mailboxes[number]) == end).collect();
        assert_eq!(now.len(), 1, "one timeline a round");
        served.extend(now);
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2]);
}

#[test]
fn old_wal_goes_when_retention_and_readers_allow_it() {
    let directory = tempfile::tempdir().unwrap();
    let retention = Retention { wal_keep_bytes: 0, ..Retention::default() };
    let (mut thread, _mailboxes) = thread_with(&directory, 1, retention);
    lead(&mut thread, 1);
    let reader = thread.timelines[&KEY].owned.readers.join(START);
    let (inputs, end) = appends(400);
    for input in inputs {
        say(&mut thread, input);
        thread.round();
    }
    let oldest = |thread: &DiskThread| thread.timelines[&KEY].owned.replica.snapshot().oldest_lsn;
    thread.tick(Duration::from_secs(5));
    thread.tick(Duration::from_secs(6));
    assert_eq!(oldest(&thread), START, "a reader is there");
    let read_upto = Lsn(START.0 + 2 * 16 * 1024 + 8);
    reader.sent(read_upto);
    thread.tick(Duration::from_secs(7));
    assert_eq!(oldest(&thread), Lsn(START.0 + 2 * 16 * 1024));
    drop(reader);
    thread.tick(Duration::from_secs(8));
    assert_eq!(oldest(&thread), end.align_down(16 * 1024));
}

/// Something to try, and how often it was tried.
fn attempt(succeeds_at: u32) -> (Attempt, Arc<AtomicU32>) {
    let tried = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&tried);
    (Box::new(move || counter.fetch_add(1, Ordering::Relaxed) + 1 == succeeds_at), tried)
}

#[test]
fn a_failed_attempt_keeps_the_thread_free_for_a_while_and_one_that_succeeds_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, _mailbox) = thread(&directory);
    let (attempts, tried): (Vec<_>, Vec<_>) = [attempt(3), attempt(1), attempt(1)].into_iter().unzip();
    let before = Instant::now();
    for attempt in attempts {
        thread.follow(Order::Retry(attempt));
    }
    let tried = || tried.iter().map(|tried| tried.load(Ordering::Relaxed)).collect::<Vec<_>>();
    thread.attempt();
    assert_eq!(tried(), [0, 0, 0], "it has just failed");
    assert!(thread.attempt_at >= before + ATTEMPT_INTERVAL);
    for expected in [[1, 0, 0], [2, 1, 1], [3, 1, 1]] {
        thread.attempt_at = Instant::now();
        for _ in 0..4 {
            thread.attempt();
        }
        assert_eq!(tried(), expected);
    }
    assert!(thread.attempts.is_empty());
}

#[test]
fn nothing_is_kept_of_a_connection_that_left() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, _mailbox) = thread(&directory);
    say(&mut thread, Input::Disconnected);
    let served = round(&mut thread);
    assert!(served.mailboxes.is_empty() && served.lanes.is_empty());
}

#[test]
fn nothing_is_kept_of_a_connection_that_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, mailbox) = thread(&directory);
    let request =
        VoteRequest { generation: Generation(0), term: Term(1), proposer_id: ProposerId::default() };
    say(&mut thread, Input::Message(ProposerMessage::Vote(request)));
    round(&mut thread);
    let Some(Mail::End(reason)) = mailbox.try_take() else { panic!("not refused") };
    assert_eq!(reason.sqlstate, SqlState::PROTOCOL_VIOLATION);
    // What comes behind is dropped, and so is all that was kept.
    say(&mut thread, Input::Message(ProposerMessage::Vote(request)));
    let served = round(&mut thread);
    assert!(served.mailboxes.is_empty() && served.lanes.is_empty());
    assert_eq!(served.owned.replica.snapshot().term, Term::ZERO);
}
