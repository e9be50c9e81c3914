//! The disk threads: a small pool, each the owner of the [`Replica`]s of some timelines.
//!
//! A timeline stays on one thread, so there is no lock around its consensus and none over its IO; one thread serves
//! many timelines. A thread works in rounds: it drains what came in, gives each replica its share in one batch, posts
//! the answers, and publishes the snapshot. It never waits for a connection: what comes in is bounded by the room of
//! each connection's lane, what goes out by its mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use consensus::{ConnectionId, Refusal};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::watch;
use wal_store::{Input, Output, RESERVE_RETRY, RealDisk, Rejection, Replica, Snapshot};
use wal_types::TenantTimelineId;

use super::lanes::{Lanes, Queued, wal_bytes};
use super::mailbox::Mailbox;
use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;

/// Disk threads. More would let more timelines flush at once; disks have few queues, and each thread is cheap.
pub(super) const DISK_THREADS: usize = 4;

/// Between two looks at what is to be done without a message: persisting the commit position, preparing segments.
pub(super) const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// After an attempt that failed its thread attempts nothing for so long: a recovery reads and writes a lot, and the
/// timelines that are served have to wait for it.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);

/// What a thread is told.
pub(super) enum Order {
    /// Own this timeline from now on.
    Own { key: TimelineKey, timeline: Box<Owned> },
    /// A connection of a proposer.
    Attach { key: TimelineKey, connection: ConnectionId, mailbox: Mailbox },
    /// Something for a lane.
    Queue { key: TimelineKey, connection: ConnectionId, queued: Queued },
    /// Try something that failed for want of a disk, until it says that it is done.
    Retry(Attempt),
    /// Finish what came before, then end.
    Stop,
}

/// Says whether it is done.
pub(super) type Attempt = Box<dyn FnMut() -> bool + Send>;

/// A timeline within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimelineKey(pub(super) u64);

/// What a thread owns of a timeline.
pub(super) struct Owned {
    pub(super) id: TenantTimelineId,
    pub(super) replica: Replica<RealDisk>,
    pub(super) changed: watch::Sender<()>,
}

/// The threads.
#[derive(Debug)]
pub(crate) struct DiskPool {
    orders: Vec<Sender<Order>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl DiskPool {
    pub(crate) fn start(metrics: &Metrics, lock: &DataDirLock) -> io::Result<Self> {
        let mut pool = Self { orders: Vec::new(), threads: Mutex::default() };
        let threads = pool.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for number in 0..DISK_THREADS {
            let (orders, inbox) = channel();
            let thread = DiskThread {
                inbox,
                timelines: BTreeMap::new(),
                attempts: VecDeque::new(),
                attempt_at: Instant::now(),
                metrics: metrics.clone(),
                _lock: lock.clone(),
            };
            threads.push(Builder::new().name(format!("disk-{number}")).spawn(move || thread.run())?);
            pool.orders.push(orders);
        }
        Ok(pool)
    }

    /// The way to the thread that a timeline belongs to.
    pub(super) fn thread_of(&self, key: TimelineKey) -> Sender<Order> {
        let index = key.0 as usize % self.orders.len();
        self.orders[index].clone()
    }

    /// False when a thread has ended: its timelines are served no more.
    pub(crate) fn is_alive(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets every thread finish what it was given, and waits for it.
    pub(crate) fn stop(&self) {
        for orders in &self.orders {
            // A thread that is gone has nothing left to finish.
            let _ = orders.send(Order::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a disk thread had panicked");
            }
        }
    }
}

struct DiskThread {
    inbox: Receiver<Order>,
    timelines: BTreeMap<TimelineKey, Served>,
    /// The one whose turn is next is in front.
    attempts: VecDeque<Attempt>,
    attempt_at: Instant,
    metrics: Metrics,
    /// Nobody else may open the directory while this thread may write.
    _lock: DataDirLock,
}

struct Served {
    owned: Owned,
    /// The snapshot that waiters were told of last.
    seen: Arc<Snapshot>,
    lanes: Lanes,
    mailboxes: BTreeMap<ConnectionId, Mailbox>,
}

impl DiskThread {
    fn run(mut self) {
        let origin = Instant::now();
        let mut next_tick = origin + TICK_INTERVAL;
        let mut stopping = false;
        while !stopping {
            let now = Instant::now();
            let lanes_due = self.timelines.values().filter_map(|served| served.lanes.next_due(now));
            let attempt_due = (!self.attempts.is_empty()).then_some(self.attempt_at);
            let due = lanes_due.chain(attempt_due).fold(next_tick, Instant::min);
            let wait = due.saturating_duration_since(now);
            match self.inbox.recv_timeout(wait) {
                Ok(order) => stopping |= self.follow(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stopping = true,
            }
            while let Ok(order) = self.inbox.try_recv() {
                stopping |= self.follow(order);
            }
            for served in self.timelines.values_mut() {
                served.round(&self.metrics);
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK_INTERVAL;
                for served in self.timelines.values_mut() {
                    let output = served.owned.replica.tick(origin.elapsed());
                    served.hand_out(output, &self.metrics);
                }
            }
            if !stopping {
                self.attempt();
            }
        }
        // What rests for want of disk space stays undone: it was never acknowledged.
        for served in self.timelines.values_mut() {
            while served.lanes.next_due(Instant::now()).is_some_and(|due| due <= Instant::now()) {
                served.round(&self.metrics);
            }
        }
    }

    /// One at a time, so that those who are served have their turns in between; after one that succeeded the disk is
    /// well, and the next need not wait.
    fn attempt(&mut self) {
        if Instant::now() < self.attempt_at {
            return;
        }
        let Some(mut attempt) = self.attempts.pop_front() else { return };
        if !attempt() {
            self.attempts.push_back(attempt);
            self.attempt_at = Instant::now() + ATTEMPT_INTERVAL;
        }
    }

    /// True when this was the last order.
    fn follow(&mut self, order: Order) -> bool {
        match order {
            Order::Own { key, timeline } => {
                self.timelines.insert(key, Served::new(*timeline));
            }
            Order::Attach { key, connection, mailbox } => match self.timelines.get_mut(&key) {
                Some(served) => {
                    served.lanes.open(connection);
                    served.mailboxes.insert(connection, mailbox);
                }
                None => mailbox.end(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, "unknown timeline")),
            },
            Order::Queue { key, connection, queued } => {
                if let Some(served) = self.timelines.get_mut(&key) {
                    match queued.input {
                        Input::Disconnected => served.lanes.leave(connection),
                        Input::Message(_) => served.lanes.push(connection, queued),
                    }
                }
            }
            Order::Retry(attempt) => {
                if self.attempts.is_empty() {
                    self.attempt_at = Instant::now() + ATTEMPT_INTERVAL;
                }
                self.attempts.push_back(attempt);
            }
            Order::Stop => return true,
        }
        false
    }
}

impl Served {
    fn new(owned: Owned) -> Self {
        let seen = owned.replica.snapshot();
        Self { owned, seen, lanes: Lanes::default(), mailboxes: BTreeMap::new() }
    }

    fn round(&mut self, metrics: &Metrics) {
        let started = Instant::now();
        let mut batch = self.lanes.batch(started);
        let inputs = batch.take_inputs();
        if inputs.is_empty() {
            return;
        }
        let bytes: usize = inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        let gone = disconnected(&inputs);
        let mut output = self.owned.replica.run(inputs);
        let undecided = std::mem::take(&mut output.undecided);
        let not_yet_gone = disconnected(&undecided);
        self.lanes.put_back(batch, undecided, started + RESERVE_RETRY);
        if bytes > 0 {
            metrics.wal_received_bytes.inc_by(bytes as u64);
            metrics.batch_bytes.observe(bytes as f64);
            metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
        }
        self.hand_out(output, metrics);
        for connection in gone.into_iter().filter(|connection| !not_yet_gone.contains(connection)) {
            self.mailboxes.remove(&connection);
            self.lanes.close(connection);
        }
    }

    /// Wakes those who watch, and posts what is for connections.
    fn hand_out(&mut self, output: Output, metrics: &Metrics) {
        // The replica has published its snapshot itself, where readers look after each read.
        let snapshot = self.owned.replica.snapshot();
        if !Arc::ptr_eq(&self.seen, &snapshot) {
            if self.seen.health != snapshot.health {
                let (from, to) = (self.seen.health, snapshot.health);
                tracing::warn!(timeline = %self.owned.id, ?from, ?to, "health changed");
            }
            self.seen = snapshot;
            self.owned.changed.send_replace(());
        }
        for (connection, message) in output.replies {
            let Some(mailbox) = self.mailboxes.get(&connection) else { continue };
            if !mailbox.post(message) {
                let reason = "more questions than answers were read";
                self.end(connection, ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, reason));
            }
        }
        for (connection, rejection) in output.refused {
            metrics.refused.inc();
            tracing::warn!(timeline = %self.owned.id, connection = connection.0, %rejection, "proposer refused");
            self.end(connection, rejection_response(&rejection));
        }
    }

    /// Tells a connection to close. What it still has queued is dropped; that it left reaches the replica as usual.
    fn end(&mut self, connection: ConnectionId, reason: ErrorResponse) {
        if let Some(mailbox) = self.mailboxes.remove(&connection) {
            mailbox.end(reason);
        }
        self.lanes.clear(connection);
        self.lanes.leave(connection);
    }
}

fn disconnected(inputs: &[(ConnectionId, Input)]) -> Vec<ConnectionId> {
    let gone = inputs.iter().filter(|(_, input)| matches!(input, Input::Disconnected));
    gone.map(|(connection, _)| *connection).collect()
}

/// What a proposer is told before it is closed.
fn rejection_response(rejection: &Rejection) -> ErrorResponse {
    let sqlstate = match rejection {
        Rejection::Protocol(Refusal::Malformed(_) | Refusal::NotGreeted | Refusal::NotWal(_)) => {
            SqlState::PROTOCOL_VIOLATION
        }
        Rejection::Protocol(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        Rejection::Disk(_) => SqlState::IO_ERROR,
        Rejection::Corrupt(_) => SqlState::DATA_CORRUPTED,
    };
    ErrorResponse::fatal(sqlstate, rejection.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Configuration, Dialect, Lineage, ProposerMessage, VoteRequest};
    use prometheus_client::registry::Registry;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tempfile::TempDir;
    use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, Term, Tli};

    use super::super::mailbox::Mail;
    use crate::data_dir::DataDir;

    const KEY: TimelineKey = TimelineKey(0);
    const CONNECTION: ConnectionId = ConnectionId(7);

    /// A thread's content with one timeline and one connection, run by hand.
    fn thread(directory: &TempDir) -> (DiskThread, Mailbox) {
        let data_dir = DataDir::open(directory.path(), NodeId(1)).unwrap();
        let lineage = Lineage {
            id: TenantTimelineId::default(),
            dialect: Dialect::Holdfast,
            system_id: SystemId(7),
            pg_version: 150_018,
            segment_size: SegmentSize::new(16 * 1024).unwrap(),
            start_lsn: Lsn(16 * 1024),
            start_tli: Tli::FIRST,
        };
        let path = directory.path().join("timeline");
        let create = |disk: &_| Replica::create(disk, NodeId(1), [0; 16], lineage, Configuration::default());
        RealDisk::create(&path, create).unwrap();
        let replica = Replica::open(RealDisk::open(&path).unwrap(), NodeId(1)).unwrap();
        let mut thread = DiskThread {
            inbox: channel().1,
            timelines: BTreeMap::new(),
            attempts: VecDeque::new(),
            attempt_at: Instant::now(),
            metrics: Metrics::register(&mut Registry::default()),
            _lock: data_dir.lock(),
        };
        let owned = Owned { id: TenantTimelineId::default(), replica, changed: watch::channel(()).0 };
        let mailbox = Mailbox::default();
        thread.follow(Order::Own { key: KEY, timeline: Box::new(owned) });
        thread.follow(Order::Attach { key: KEY, connection: CONNECTION, mailbox: mailbox.clone() });
        (thread, mailbox)
    }

    fn say(thread: &mut DiskThread, input: Input) {
        let queued = Queued { input, permit: None };
        thread.follow(Order::Queue { key: KEY, connection: CONNECTION, queued });
    }

    fn round(thread: &mut DiskThread) -> &Served {
        let served = thread.timelines.get_mut(&KEY).unwrap();
        served.round(&thread.metrics);
        served
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
}
