//! [`DiskThread`]: owns the [`Replica`](wal_store::Replica)s of some timelines, and does their disk IO.
//!
//! A timeline stays on one thread, so there is no lock around its consensus and none over its IO; one thread serves
//! many timelines. A thread works in rounds. It handles the commands that came in, lets every replica write its share,
//! and only then syncs the first one. Appends that arrive meanwhile share the syncs of the next round, and no append
//! waits for a second sync. The replies are posted after the sync. The thread never waits for a connection: commands
//! are bounded by the room of each connection's lane, replies by its mailbox.

mod command;
mod owned_timeline;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use pq_proto::{ErrorResponse, SqlState};

pub(super) use command::{DiskCommand, OpenAttempt, TimelineKey};
pub(super) use owned_timeline::OpenedTimeline;
use owned_timeline::OwnedTimeline;

use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;
use crate::retention::Retention;

/// Interval of the work that needs no message: persisting the commit position, preparing and removing segments.
pub(super) const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// WAL that the timelines of a thread write in one round before it is synced. A round may write one timeline's share more.
const ROUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time for which the timelines of a thread write in one round before it is synced: the sync of the first timeline waits
/// until the last one has written.
const ROUND_WRITE_TIME_MAX: Duration = Duration::from_millis(10);

/// Pause of a thread after a failed attempt to open a timeline. A recovery reads and writes a lot, and the timelines that
/// are served have to wait for it.
const OPEN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One disk thread. Only its own thread touches it.
pub(super) struct DiskThread {
    inbox: Receiver<DiskCommand>,
    timelines: BTreeMap<TimelineKey, OwnedTimeline>,
    /// Timelines that are not open yet; the next one to try is in front.
    open_attempts: VecDeque<OpenAttempt>,
    next_attempt_at: Instant,
    /// The timeline that writes first in the next round.
    first_writer: TimelineKey,
    retention: Retention,
    metrics: Metrics,
    /// Keeps other processes out of the directory while this thread may write.
    _lock: DataDirLock,
}

impl DiskThread {
    /// A thread's state without timelines.
    pub(super) fn new(
        inbox: Receiver<DiskCommand>,
        retention: Retention,
        metrics: Metrics,
        lock: DataDirLock,
    ) -> Self {
        Self {
            inbox,
            timelines: BTreeMap::new(),
            open_attempts: VecDeque::new(),
            next_attempt_at: Instant::now(),
            first_writer: TimelineKey(0),
            retention,
            metrics,
            _lock: lock,
        }
    }

    /// The loop of the thread; returns after [`DiskCommand::Stop`], when everything received is on disk.
    pub(super) fn run(mut self) {
        let origin = Instant::now();
        let mut next_tick = origin + TICK_INTERVAL;
        let mut stopping = false;
        while !stopping {
            stopping = self.handle_commands(next_tick);
            self.round();

            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK_INTERVAL;
                self.tick(origin.elapsed());
            }
            if !stopping {
                self.try_open_next();
            }
        }

        // Messages that are paused for want of disk space stay undecided: they were never acknowledged.
        while self.is_due() {
            self.round();
        }
        for timeline in self.timelines.values_mut() {
            timeline.checkpoint_for_shutdown(&self.metrics);
        }
    }

    /// Waits until something is due, and handles the commands that came in. True when the thread has to stop.
    fn handle_commands(&mut self, next_tick: Instant) -> bool {
        let now = Instant::now();
        let lanes_due = self.timelines.values().filter_map(|timeline| timeline.lanes.next_due(now));
        let attempt_due = (!self.open_attempts.is_empty()).then_some(self.next_attempt_at);
        let due = lanes_due.chain(attempt_due).fold(next_tick, Instant::min);

        let mut stopping = match self.inbox.recv_timeout(due.saturating_duration_since(now)) {
            Ok(command) => self.handle(command),
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        while let Ok(command) = self.inbox.try_recv() {
            stopping |= self.handle(command);
        }
        stopping
    }

    /// Handles one command. True for the last one.
    fn handle(&mut self, command: DiskCommand) -> bool {
        match command {
            DiskCommand::Own { key, timeline } => {
                self.timelines.insert(key, OwnedTimeline::new(*timeline));
            }
            DiskCommand::OpenLane { key, connection, mailbox } => match self.timelines.get_mut(&key) {
                Some(timeline) => timeline.open_lane(connection, mailbox),
                None => {
                    let reason = "this disk thread does not own the timeline";
                    mailbox.close(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, reason));
                }
            },
            DiskCommand::Enqueue { key, connection, queued } => {
                if let Some(timeline) = self.timelines.get_mut(&key) {
                    timeline.enqueue(connection, queued);
                }
            }
            DiskCommand::CloseLane { key, connection } => {
                if let Some(timeline) = self.timelines.get_mut(&key) {
                    timeline.disconnect(connection);
                }
            }
            DiskCommand::RetryOpen(attempt) => {
                if self.open_attempts.is_empty() {
                    // The attempt has just failed once.
                    self.next_attempt_at = Instant::now() + OPEN_RETRY_INTERVAL;
                }
                self.open_attempts.push_back(attempt);
            }
            DiskCommand::Stop => return true,
        }
        false
    }

    fn tick(&mut self, now: Duration) {
        for timeline in self.timelines.values_mut() {
            let reader_at = timeline.opened.readers.furthest_behind();
            let keep_from = self.retention.keep_from(&timeline.announced, reader_at);
            timeline.tick(keep_from, now, &self.metrics);
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.timelines.values().filter_map(|timeline| timeline.lanes.next_due(now)).any(|due| due <= now)
    }

    fn round(&mut self) {
        self.round_within(ROUND_BYTES_MAX, ROUND_WRITE_TIME_MAX);
    }

    /// Lets the timelines write until a limit is reached, and syncs what they wrote. The first timeline without a turn
    /// writes first in the next round.
    fn round_within(&mut self, bytes_max: usize, write_time_max: Duration) {
        let started = Instant::now();
        let mut written_bytes = 0;
        let mut written_rounds = Vec::new();
        let keys: Vec<TimelineKey> = self.timelines.keys().copied().collect();
        let first = keys.partition_point(|key| *key < self.first_writer);
        for key in keys[first..].iter().chain(&keys[..first]) {
            self.first_writer = *key;
            if written_bytes >= bytes_max || started.elapsed() >= write_time_max {
                break;
            }
            let written = self.timelines.get_mut(key).and_then(OwnedTimeline::write);
            written_bytes += written.as_ref().map_or(0, |written| written.wal_bytes);
            written_rounds.extend(written.map(|written| (*key, written)));
        }

        for (key, written) in written_rounds {
            if let Some(timeline) = self.timelines.get_mut(&key) {
                timeline.sync(written, &self.metrics);
            }
        }
    }

    /// Tries to open one timeline, so that the open timelines have their turns in between. After a success the disk works,
    /// and the next attempt need not wait.
    fn try_open_next(&mut self) {
        if Instant::now() < self.next_attempt_at {
            return;
        }
        let Some(mut attempt) = self.open_attempts.pop_front() else { return };
        if !attempt() {
            self.open_attempts.push_back(attempt);
            self.next_attempt_at = Instant::now() + OPEN_RETRY_INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests;
