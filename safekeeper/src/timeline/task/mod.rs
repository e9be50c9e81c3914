//! The disk threads: a small pool, each the owner of the [`Replica`]s of some timelines.
//!
//! A timeline stays on one thread, so there is no lock around its consensus and none over its IO; one thread serves
//! many timelines. A thread works in rounds: it drains what came in, lets every replica write its share, and only then
//! the first one sync; so the appends that came in meanwhile share the syncs of the next round, and none waits for a
//! second one. Then it posts the answers. It never waits for a connection: what comes in is bounded by the room of each
//! connection's lane, what goes out by its mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use consensus::{ConnectionId, Refusal};
use parking_lot::Mutex;
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::watch;
use wal_store::{Input, Output, RESERVE_RETRY, RealDisk, Rejection, Replica, Snapshot};
use wal_types::TenantTimelineId;

use super::lanes::{Batch, Lanes, Queued, wal_bytes};
use super::mailbox::Mailbox;
use crate::data_dir::DataDirLock;
use crate::feedback::Readers;
use crate::metrics::Metrics;
use crate::retention::Retention;

/// Disk threads. More would let more timelines flush at once; disks have few queues, and each thread is cheap.
pub(super) const DISK_THREADS: usize = 4;

/// Between two looks at what is to be done without a message: persisting the commit position, preparing segments.
pub(super) const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// WAL that the timelines of a thread write in one round before it is synced. A round may exceed it by the share of one
/// timeline.
const ROUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time that they write for before it is synced: those who wrote first wait for those who write last.
const ROUND_WRITE_TIME_MAX: Duration = Duration::from_millis(10);

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
    pub(super) readers: Arc<Readers>,
    pub(super) changed: watch::Sender<()>,
}

/// The threads.
#[derive(Debug)]
pub(crate) struct DiskPool {
    orders: Vec<Sender<Order>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl DiskPool {
    pub(crate) fn start(metrics: &Metrics, lock: &DataDirLock, retention: Retention) -> io::Result<Self> {
        let mut pool = Self { orders: Vec::new(), threads: Mutex::default() };
        let threads = pool.threads.get_mut();
        for number in 0..DISK_THREADS {
            let (orders, inbox) = channel();
            let thread = DiskThread {
                inbox,
                timelines: BTreeMap::new(),
                attempts: VecDeque::new(),
                attempt_at: Instant::now(),
                begin_with: TimelineKey(0),
                retention,
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
        let threads = self.threads.lock();
        !threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets every thread finish what it was given, and waits for it.
    pub(crate) fn stop(&self) {
        for orders in &self.orders {
            // A thread that is gone has nothing left to finish.
            let _ = orders.send(Order::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock());
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
    /// The timeline whose turn to write it is.
    begin_with: TimelineKey,
    retention: Retention,
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

/// What a timeline has written in a round, and has to sync.
struct Written {
    batch: Batch,
    started: Instant,
    bytes: usize,
    /// Appends with WAL.
    appends: usize,
    gone: Vec<ConnectionId>,
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
            self.round();
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK_INTERVAL;
                self.tick(origin.elapsed());
            }
            if !stopping {
                self.attempt();
            }
        }
        // What rests for want of disk space stays undone: it was never acknowledged.
        while self.is_due() {
            self.round();
        }
        for served in self.timelines.values_mut() {
            let output = served.owned.replica.checkpoint_for_shutdown();
            served.hand_out(output, &self.metrics);
        }
    }

    fn tick(&mut self, now: Duration) {
        for served in self.timelines.values_mut() {
            let reader_at = served.owned.readers.furthest_behind();
            let keep_from = self.retention.keep_from(&served.seen, reader_at);
            served.owned.replica.set_keep_from(keep_from);
            let output = served.owned.replica.tick(now);
            served.hand_out(output, &self.metrics);
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.timelines.values().filter_map(|served| served.lanes.next_due(now)).any(|due| due <= now)
    }

    fn round(&mut self) {
        self.round_within(ROUND_BYTES_MAX, ROUND_WRITE_TIME_MAX);
    }

    /// Lets the timelines write, as many as fit, and syncs what they wrote. Who had no turn is first in the next round.
    fn round_within(&mut self, bytes_max: usize, write_time_max: Duration) {
        let started = Instant::now();
        let mut written_bytes = 0;
        let mut under_way = Vec::new();
        let keys: Vec<TimelineKey> = self.timelines.keys().copied().collect();
        let first = keys.partition_point(|key| *key < self.begin_with);
        for key in keys[first..].iter().chain(&keys[..first]) {
            self.begin_with = *key;
            if written_bytes >= bytes_max || started.elapsed() >= write_time_max {
                break;
            }
            let written = self.timelines.get_mut(key).and_then(Served::write);
            written_bytes += written.as_ref().map_or(0, |written| written.bytes);
            under_way.extend(written.map(|written| (*key, written)));
        }
        for (key, written) in under_way {
            if let Some(served) = self.timelines.get_mut(&key) {
                served.sync(written, &self.metrics);
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

    /// The first half of a round; nothing when there is nothing to do.
    fn write(&mut self) -> Option<Written> {
        let started = Instant::now();
        let mut batch = self.lanes.batch(started);
        let inputs = batch.take_inputs();
        if inputs.is_empty() {
            return None;
        }
        let bytes = inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        let appends = inputs.iter().filter(|(_, input)| wal_bytes(input) > 0).count();
        let gone = disconnected(&inputs);
        self.owned.replica.write(inputs);
        Some(Written { batch, started, bytes, appends, gone })
    }

    /// The second half.
    fn sync(&mut self, written: Written, metrics: &Metrics) {
        let Written { batch, started, bytes, appends, gone } = written;
        let mut output = self.owned.replica.sync();
        let undecided = std::mem::take(&mut output.undecided);
        let not_yet_gone = disconnected(&undecided);
        self.lanes.put_back(batch, undecided, started + RESERVE_RETRY);
        metrics.wal_syncs.inc_by(output.wal_syncs.into());
        if bytes > 0 {
            metrics.appends.inc_by(appends as u64);
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
mod tests;
