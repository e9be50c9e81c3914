//! [`OwnedTimeline`]: a timeline on its disk thread: the replica, the lanes in, the mailboxes out.
//!
//! A round has two halves, [`write`](OwnedTimeline::write) and [`sync`](OwnedTimeline::sync). The thread lets all its
//! timelines write before the first of them syncs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::{ConnectionId, Refusal};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::watch;
use wal_store::{Input, Output, RESERVE_RETRY, RealDisk, Rejection, Replica, Snapshot};
use wal_types::{Lsn, TenantTimelineId};

use crate::feedback::Readers;
use crate::metrics::Metrics;
use crate::timeline::lane_queues::{LaneQueues, Queued, RoundBatch, wal_bytes};
use crate::timeline::mailbox::Mailbox;

/// A timeline that was opened, on its way to the thread that will own it.
pub(in crate::timeline) struct OpenedTimeline {
    pub(in crate::timeline) id: TenantTimelineId,
    pub(in crate::timeline) replica: Replica<RealDisk>,
    pub(in crate::timeline) readers: Arc<Readers>,
    /// Notified after each new snapshot.
    pub(in crate::timeline) changed: watch::Sender<()>,
}

/// A timeline on its disk thread.
pub(super) struct OwnedTimeline {
    pub(super) opened: OpenedTimeline,
    /// The snapshot that watchers were notified of last.
    pub(super) announced: Arc<Snapshot>,
    pub(super) lanes: LaneQueues,
    pub(super) mailboxes: BTreeMap<ConnectionId, Mailbox>,
}

/// The written half of a round, which has to be synced.
pub(super) struct WrittenRound {
    batch: RoundBatch,
    started: Instant,
    pub(super) wal_bytes: usize,
    /// Appends with WAL.
    appends: usize,
    disconnected: Vec<ConnectionId>,
}

impl OwnedTimeline {
    pub(super) fn new(opened: OpenedTimeline) -> Self {
        let announced = opened.replica.snapshot();
        Self { opened, announced, lanes: LaneQueues::default(), mailboxes: BTreeMap::new() }
    }

    pub(super) fn open_lane(&mut self, connection: ConnectionId, mailbox: Mailbox) {
        self.lanes.open(connection);
        self.mailboxes.insert(connection, mailbox);
    }

    pub(super) fn enqueue(&mut self, connection: ConnectionId, queued: Queued) {
        self.lanes.push(connection, queued);
    }

    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        self.lanes.disconnect(connection);
    }

    /// First half of a round: takes a batch from the lanes and writes it. `None` when no lane is due.
    pub(super) fn write(&mut self) -> Option<WrittenRound> {
        let started = Instant::now();
        let mut batch = self.lanes.next_batch(started);
        let inputs = batch.take_inputs();
        if inputs.is_empty() {
            return None;
        }

        let bytes = inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        let appends = inputs.iter().filter(|(_, input)| wal_bytes(input) > 0).count();
        let disconnected = disconnected(&inputs);
        self.opened.replica.write(inputs);
        Some(WrittenRound { batch, started, wal_bytes: bytes, appends, disconnected })
    }

    /// Second half of a round: syncs what was written, posts the replies, and removes the lanes of connections that are
    /// gone.
    pub(super) fn sync(&mut self, written: WrittenRound, metrics: &Metrics) {
        let WrittenRound { batch, started, wal_bytes: bytes, appends, disconnected: gone } = written;
        let mut output = self.opened.replica.sync();
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

        self.publish(output, metrics);
        for connection in gone.into_iter().filter(|connection| !not_yet_gone.contains(connection)) {
            self.mailboxes.remove(&connection);
            self.lanes.remove(connection);
        }
    }

    /// Work that needs no message: removes WAL below `keep_from`, persists the commit position, prepares segments.
    pub(super) fn tick(&mut self, keep_from: Lsn, now: Duration, metrics: &Metrics) {
        self.opened.replica.set_keep_from(keep_from);
        let output = self.opened.replica.tick(now);
        self.publish(output, metrics);
    }

    /// Persists what the next start needs. The last call.
    pub(super) fn checkpoint_for_shutdown(&mut self, metrics: &Metrics) {
        let output = self.opened.replica.checkpoint_for_shutdown();
        self.publish(output, metrics);
    }

    /// Notifies watchers of a new snapshot, and posts the replies.
    fn publish(&mut self, output: Output, metrics: &Metrics) {
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

        for (connection, reply) in output.replies {
            let Some(mailbox) = self.mailboxes.get(&connection) else { continue };
            if !mailbox.post(reply) {
                let reason = "proposer sends requests and does not read the replies";
                self.close(connection, ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, reason));
            }
        }
        for (connection, rejection) in output.refused {
            metrics.count_refused(rejection_reason(&rejection));
            tracing::warn!(timeline = %self.opened.id, connection = connection.0, %rejection, "proposer refused");
            self.close(connection, rejection_response(&rejection));
        }
    }

    /// Closes a connection with this reason. Its queued messages are dropped; the replica learns of the disconnect through
    /// the lane, as for any other connection.
    fn close(&mut self, connection: ConnectionId, reason: ErrorResponse) {
        if let Some(mailbox) = self.mailboxes.remove(&connection) {
            mailbox.close(reason);
        }
        self.lanes.discard(connection);
        self.lanes.disconnect(connection);
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
