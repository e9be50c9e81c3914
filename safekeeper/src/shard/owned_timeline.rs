//! [`OwnedTimeline`]: a timeline on its shard: the replica, and the lanes of its proposers.
//!
//! A round has two halves, [`write`](OwnedTimeline::write) and [`sync`](OwnedTimeline::sync). The shard lets all its
//! timelines write before the first of them syncs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::{AcceptorMessage, BootstrapRefused, ConnectionId, Member, Refusal};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::watch;
use wal_store::{
    Health, HoldReason, Input, Output, RESERVE_RETRY, RealDisk, Rejection, Replica, Retention, RetentionPlan,
    Snapshot, WorkDone,
};
use wal_types::TenantTimelineId;

use super::lane_queues::{LaneQueues, wal_bytes};
use crate::feedback::Readers;
use crate::metrics::Metrics;
use crate::retention::{GivenUp, TimelineHolds};
use crate::slots::TimelineSlots;

/// A timeline that was opened, on its way to the shard that will own it.
pub(crate) struct OpenedTimeline {
    pub(crate) id: TenantTimelineId,
    pub(crate) replica: Replica<RealDisk>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) slots: Arc<TimelineSlots>,
    pub(crate) holds: Arc<TimelineHolds>,
    /// Notified after each new snapshot.
    pub(crate) changed: watch::Sender<()>,
}

/// A timeline on its shard.
pub(super) struct OwnedTimeline {
    pub(super) opened: OpenedTimeline,
    /// The snapshot that watchers were notified of last.
    pub(super) announced: Arc<Snapshot>,
    pub(super) lanes: LaneQueues,
    /// It waits for its turn in the next round.
    pub(super) is_queued: bool,
    /// Time of its next tick, if it needs one.
    pub(super) due: Option<Duration>,
}

/// What a timeline has for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each append")]
pub(super) enum Delivery {
    /// Send this reply.
    Reply(AcceptorMessage),
    /// Close the connection with this response.
    Close(ErrorResponse),
}

/// Receives what a timeline has for its connections, as soon as it is durable.
pub(super) type Deliver<'d> = dyn FnMut(ConnectionId, Delivery) + 'd;

/// The written half of a round, which has to be synced.
pub(super) struct WrittenRound {
    started: Instant,
    pub(super) wal_bytes: usize,
    /// Appends with WAL.
    appends: usize,
    disconnected: Vec<ConnectionId>,
}

impl OwnedTimeline {
    pub(super) fn new(opened: OpenedTimeline) -> Self {
        let announced = opened.replica.snapshot();
        Self { opened, announced, lanes: LaneQueues::default(), is_queued: false, due: None }
    }

    /// First half of a round: takes a batch from the lanes and writes it. `None` when no lane is due.
    pub(super) fn write(&mut self, now: Instant) -> Option<WrittenRound> {
        let inputs = self.lanes.next_batch(now);
        if inputs.is_empty() {
            return None;
        }

        let bytes = inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        let appends = inputs.iter().filter(|(_, input)| wal_bytes(input) > 0).count();
        let disconnected = disconnected(&inputs);
        self.opened.replica.write(inputs);
        Some(WrittenRound { started: now, wal_bytes: bytes, appends, disconnected })
    }

    /// Second half of a round: syncs what was written, delivers the replies, and removes the lanes of connections that are
    /// gone.
    pub(super) fn sync(&mut self, written: WrittenRound, metrics: &Metrics, deliver: &mut Deliver<'_>) {
        let WrittenRound { started, wal_bytes: bytes, appends, disconnected: gone } = written;
        let syncing = Instant::now();
        let mut output = self.opened.replica.sync();
        let synced = Instant::now();

        let undecided = std::mem::take(&mut output.undecided);
        let not_yet_gone = disconnected(&undecided);
        self.lanes.put_back(undecided, started + RESERVE_RETRY);
        let wal_syncs = output.wal_syncs;
        self.publish(output, metrics, deliver);
        for connection in gone.into_iter().filter(|connection| !not_yet_gone.contains(connection)) {
            self.lanes.remove(connection);
        }

        if wal_syncs > 0 {
            metrics.wal_syncs.inc_by(wal_syncs.into());
            metrics.fsync_seconds.observe((synced - syncing).as_secs_f64());
        }
        if bytes > 0 {
            metrics.appends.inc_by(appends as u64);
            metrics.wal_received_bytes.inc_by(bytes as u64);
            metrics.batch_bytes.observe(bytes as f64);
            metrics.batch_seconds.observe((synced - started).as_secs_f64());
        }
    }

    /// Work that needs no message: removes WAL that nothing keeps, persists the commit position.
    pub(super) fn tick(
        &mut self,
        retention: &Retention,
        now: Duration,
        metrics: &Metrics,
        deliver: &mut Deliver<'_>,
    ) {
        let reader_at = self.opened.readers.furthest_behind();
        let slot_at = self.opened.slots.hold_from();
        let pressure = self.opened.holds.pressure();
        let plan = retention.plan(&self.announced, reader_at, slot_at, pressure);
        self.opened.replica.set_keep_from(plan.keep_from());
        let output = self.opened.replica.tick(now);
        self.publish(output, metrics, deliver);

        let after = RetentionPlan { oldest_lsn: self.announced.oldest_lsn, ..plan };
        for given_up in self.opened.holds.record(after) {
            metrics.count_given_up(given_up.reason.label());
            self.warn_given_up(given_up);
        }
    }

    /// One line for each transition: what is gone, and who must do something about it.
    fn warn_given_up(&self, given_up: GivenUp) {
        let GivenUp { reason, from, to } = given_up;
        let remedy = match reason {
            HoldReason::Comfort => return,
            HoldReason::Reader => {
                "a reader that is behind gets error 58P01, it needs a base backup or an archive"
            }
            HoldReason::Slot => {
                "a replication slot is lost, its reader gets error 58P01 and needs a base backup or an archive"
            }
            HoldReason::Member => {
                "a member that is away or behind must be re-seeded: replace it, see \"A member is away for long\" in docs/operations.md"
            }
        };
        let timeline = self.opened.id;
        tracing::warn!(%timeline, reason = reason.label(), %from, %to, remedy, "old WAL was given up");
    }

    /// Tells a new copy its first members.
    pub(super) fn bootstrap(
        &mut self,
        members: Vec<Member>,
        metrics: &Metrics,
        deliver: &mut Deliver<'_>,
    ) -> Result<Result<(), BootstrapRefused>, Rejection> {
        let result = self.opened.replica.bootstrap(members);
        let output = self.opened.replica.sync();
        self.publish(output, metrics, deliver);
        result
    }

    /// Takes back what another thread did for the replica. Messages that waited for it are due.
    pub(super) fn finish_work(
        &mut self,
        done: WorkDone<RealDisk>,
        metrics: &Metrics,
        deliver: &mut Deliver<'_>,
    ) {
        let output = self.opened.replica.finish(done);
        self.publish(output, metrics, deliver);
        // On a full disk the messages wait for the retry: asking at once would never end.
        if self.announced.health != Health::Full {
            self.lanes.resume();
        }
    }

    /// When the next tick has something to do; `None` when that is not before a message arrives. `now` is the time of the
    /// last tick.
    pub(super) fn next_tick(&self, now: Duration) -> Option<Duration> {
        // A pause of a lane may end.
        if self.lanes.is_empty() { self.opened.replica.next_tick() } else { Some(now) }
    }

    /// Persists what the next start needs. The last call.
    pub(super) fn checkpoint_for_shutdown(&mut self, metrics: &Metrics, deliver: &mut Deliver<'_>) {
        let output = self.opened.replica.checkpoint_for_shutdown();
        self.publish(output, metrics, deliver);
    }

    /// Delivers the replies, and notifies watchers of a new snapshot.
    fn publish(&mut self, output: Output, metrics: &Metrics, deliver: &mut Deliver<'_>) {
        for (connection, reply) in output.replies {
            deliver(connection, Delivery::Reply(reply));
        }
        for (connection, rejection) in output.refused {
            metrics.count_refused(rejection_reason(&rejection));
            tracing::warn!(timeline = %self.opened.id, connection = connection.0, %rejection, "proposer refused");
            // Its queued messages are dropped; the replica learns of the disconnect through the lane, as for any other
            // connection.
            self.lanes.discard(connection);
            deliver(connection, Delivery::Close(rejection_response(&rejection)));
        }

        // Readers see the snapshot already: the replica publishes it itself. Here only those that wait for it are woken.
        let snapshot = self.opened.replica.snapshot();
        if !Arc::ptr_eq(&self.announced, &snapshot) {
            if self.announced.health != snapshot.health {
                let (from, to) = (self.announced.health, snapshot.health);
                tracing::warn!(timeline = %self.opened.id, ?from, ?to, "timeline health changed");
            }
            self.announced = snapshot;
            self.opened.changed.send_replace(());
        }
    }
}

fn disconnected(inputs: &[(ConnectionId, Input)]) -> Vec<ConnectionId> {
    let gone = inputs.iter().filter(|(_, input)| matches!(input, Input::Disconnected));
    gone.map(|(connection, _)| *connection).collect()
}

/// Label of a refusal in the metrics.
const fn rejection_reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Protocol(_) => "protocol",
        Rejection::Disk(_) => "disk",
        Rejection::Corrupt(_) => "corrupt",
    }
}

/// The closing message of a refused proposer.
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
