//! [`Rounds`]: the timelines of one shard, and the rounds in which they write and sync. Knows no sockets and no clock.
//!
//! In a round every timeline that has messages writes its share, and only then the first one syncs. Appends that arrive
//! meanwhile share the syncs of the next round, and no append waits for a second sync. A round and a tick visit only
//! timelines that have something to do now, so thousands of idle ones cost nothing.
//!
//! What may take long, new segments and recoveries, is [`Work`] for another thread ([`super::workers`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::{BootstrapRefused, ConnectionId, Member};
use wal_store::{RealDisk, Rejection, Retention, Work, WorkDone};

use super::command::TimelineKey;
use super::lane_queues::Lane;
use super::owned_timeline::{Deliver, OpenedTimeline, OwnedTimeline, WrittenRound};
use crate::feedback::Readers;
use crate::metrics::Metrics;

/// Interval of the work that needs no message: persisting the commit position, removing segments.
pub(super) const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// WAL that the timelines of a shard write in one round before it is synced. A round may write one timeline's share more.
const ROUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time for which the timelines of a shard write in one round before it is synced: the sync of the first timeline waits
/// until the last one has written.
const ROUND_WRITE_TIME_MAX: Duration = Duration::from_millis(10);

/// Interval of the ticks while no timeline needs one.
pub(super) const IDLE_TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Time in which every idle timeline gets a tick: its readers may have moved, and old WAL with them.
const IDLE_TIMELINE_INTERVAL: Duration = Duration::from_secs(10);

/// The timelines of one shard.
pub(super) struct Rounds {
    timelines: BTreeMap<TimelineKey, OwnedTimeline>,
    /// Timelines that have messages; the next one to write is in front.
    queue: VecDeque<TimelineKey>,
    /// Timelines that need a tick, by the time of it.
    due: BTreeSet<(Duration, TimelineKey)>,
    /// Time of the last tick.
    now: Duration,
    /// Work that timelines gave away since the last [`Rounds::take_work`].
    work: Vec<(TimelineKey, Work<RealDisk>)>,
    /// The next idle timeline that gets a tick.
    next_idle: TimelineKey,
    retention: Retention,
    metrics: Metrics,
}

impl Rounds {
    /// No timelines yet.
    pub(super) fn new(retention: Retention, metrics: Metrics) -> Self {
        Self {
            timelines: BTreeMap::new(),
            queue: VecDeque::new(),
            due: BTreeSet::new(),
            now: Duration::ZERO,
            work: Vec::new(),
            next_idle: TimelineKey(0),
            retention,
            metrics,
        }
    }

    /// Adds a timeline.
    pub(super) fn own(&mut self, key: TimelineKey, timeline: OpenedTimeline) {
        self.timelines.insert(key, OwnedTimeline::new(timeline));
        self.schedule(key, Some(self.now));
    }

    /// Sets the time of a timeline's next tick.
    fn schedule(&mut self, key: TimelineKey, at: Option<Duration>) {
        let Some(timeline) = self.timelines.get_mut(&key) else { return };
        if timeline.due == at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut timeline.due, at) {
            self.due.remove(&(before, key));
        }
        self.due.extend(at.map(|at| (at, key)));
    }

    /// After anything that a timeline did: gives its work away, and sets the time of its next tick.
    fn follow_up(&mut self, key: TimelineKey) {
        let Some(timeline) = self.timelines.get_mut(&key) else { return };
        self.work.extend(timeline.opened.replica.take_work().map(|work| (key, work)));
        let at = timeline.next_tick(self.now);
        self.schedule(key, at);
    }

    /// Work that another thread has to do; its results go to [`Rounds::finish_work`].
    pub(super) fn take_work(&mut self) -> impl Iterator<Item = (TimelineKey, Work<RealDisk>)> {
        self.work.drain(..)
    }

    /// Takes back what another thread did for a timeline.
    pub(super) fn finish_work(
        &mut self,
        key: TimelineKey,
        done: WorkDone<RealDisk>,
        now: Instant,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(timeline) = self.timelines.get_mut(&key) else { return };
        timeline.finish_work(done, &self.metrics, deliver);
        self.follow_up(key);
        self.enqueue(key, now);
    }

    /// Tells a new copy its first members. `None` without the timeline.
    pub(super) fn bootstrap(
        &mut self,
        key: TimelineKey,
        members: Vec<Member>,
        deliver: &mut Deliver<'_>,
    ) -> Option<Result<Result<(), BootstrapRefused>, Rejection>> {
        let timeline = self.timelines.get_mut(&key)?;
        let result = timeline.bootstrap(members, &self.metrics, deliver);
        self.follow_up(key);
        Some(result)
    }

    /// Opens the lane of a new connection. Returns the readers of its timeline; `None` without the timeline.
    pub(super) fn open_lane(&mut self, key: TimelineKey, connection: ConnectionId) -> Option<Arc<Readers>> {
        let timeline = self.timelines.get_mut(&key)?;
        timeline.lanes.open(connection);
        Some(Arc::clone(&timeline.opened.readers))
    }

    /// The lane of a connection. After messages were added, [`Rounds::enqueue`] gives the timeline its turn.
    pub(super) fn lane(&mut self, key: TimelineKey, connection: ConnectionId) -> Option<&mut Lane> {
        self.timelines.get_mut(&key)?.lanes.lane(connection)
    }

    /// Queues the timeline for the next round, if a lane has messages.
    pub(super) fn enqueue(&mut self, key: TimelineKey, now: Instant) {
        let Some(timeline) = self.timelines.get_mut(&key) else { return };
        if !timeline.is_queued && timeline.lanes.is_due(now) {
            timeline.is_queued = true;
            self.queue.push_back(key);
        }
    }

    /// The connection is gone. Its messages are handled before its lane is removed.
    pub(super) fn disconnect(&mut self, key: TimelineKey, connection: ConnectionId, now: Instant) {
        if let Some(timeline) = self.timelines.get_mut(&key) {
            timeline.lanes.disconnect(connection);
            self.enqueue(key, now);
        }
    }

    /// The connection is closed for a fault of its peer. Its messages are dropped.
    pub(super) fn discard(&mut self, key: TimelineKey, connection: ConnectionId, now: Instant) {
        if let Some(timeline) = self.timelines.get_mut(&key) {
            timeline.lanes.discard(connection);
            self.enqueue(key, now);
        }
    }

    /// True when a timeline waits for the next round.
    pub(super) fn is_due(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Lets the timelines that have messages write, and syncs what they wrote.
    pub(super) fn round(&mut self, now: Instant, deliver: &mut Deliver<'_>) {
        self.round_within(ROUND_BYTES_MAX, ROUND_WRITE_TIME_MAX, now, deliver);
    }

    /// Lets the timelines write until a limit is reached, and syncs what they wrote. The first timeline without a turn
    /// writes first in the next round.
    fn round_within(
        &mut self,
        bytes_max: usize,
        write_time_max: Duration,
        now: Instant,
        deliver: &mut Deliver<'_>,
    ) {
        let mut written_bytes = 0;
        let mut written: Vec<(TimelineKey, WrittenRound)> = Vec::new();
        // A timeline that is queued again during this round waits for the next one.
        for _ in 0..self.queue.len() {
            let is_full =
                written_bytes >= bytes_max || (!written.is_empty() && now.elapsed() >= write_time_max);
            if is_full {
                break;
            }
            let Some(key) = self.queue.pop_front() else { break };
            let Some(timeline) = self.timelines.get_mut(&key) else { continue };
            timeline.is_queued = false;
            if let Some(round) = timeline.write(now) {
                written_bytes += round.wal_bytes;
                written.push((key, round));
            }
        }

        for (key, round) in written {
            if let Some(timeline) = self.timelines.get_mut(&key) {
                timeline.sync(round, &self.metrics, deliver);
                self.follow_up(key);
                self.enqueue(key, now);
            }
        }
    }

    /// Time to the next tick.
    pub(super) fn tick_interval(&self) -> Duration {
        let soon = self.now + IDLE_TICK_INTERVAL;
        if self.due.first().is_some_and(|(at, _)| *at < soon) { TICK_INTERVAL } else { IDLE_TICK_INTERVAL }
    }

    /// Gives a tick to the timelines that are due, and to a share of the others. `now` counts from any fixed moment.
    pub(super) fn tick(&mut self, now: Duration, deliver: &mut Deliver<'_>) {
        let ticks = IDLE_TIMELINE_INTERVAL.as_millis() / self.tick_interval().as_millis();
        let share = self.timelines.len().div_ceil(ticks as usize);
        let (next, timelines) = (self.next_idle, &self.timelines);
        let mut keys = BTreeSet::new();
        for (key, _) in timelines.range(next..).chain(timelines.range(..next)).take(share) {
            keys.insert(*key);
            self.next_idle = TimelineKey(key.0 + 1);
        }
        keys.extend(self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key));
        self.now = now;

        for key in keys {
            let Some(timeline) = self.timelines.get_mut(&key) else { continue };
            timeline.tick(&self.retention, now, &self.metrics, deliver);
            self.follow_up(key);
            // A pause of a lane may have ended.
            self.enqueue(key, Instant::now());
        }
    }

    /// Finishes the messages that were received, and persists what the next start needs. The last call.
    ///
    /// Messages that are paused for want of disk space stay undecided: they were never acknowledged.
    pub(super) fn finish(&mut self, deliver: &mut Deliver<'_>) {
        while self.is_due() {
            self.round(Instant::now(), deliver);
        }
        for timeline in self.timelines.values_mut() {
            timeline.checkpoint_for_shutdown(&self.metrics, deliver);
        }
    }
}

#[cfg(test)]
mod tests;
