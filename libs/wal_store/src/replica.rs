//! [`Replica`]: one timeline of one safekeeper, synchronous: batches of messages in, replies out.
//!
//! Appends that follow one another, of any connections, are written one after the other and made durable by **one**
//! sync. Every other message waits for that sync first. The caller owns the replica alone and calls it from any one
//! thread, so it needs no lock. The server and the simulation drive this very code; only the disk differs.
//!
//! After a failure of the disk nothing is answered from memory: all connections are refused, and the log is recovered as
//! at a start. That, and the writing of new segments, is [`Work`] for another thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consensus::{BootstrapRefused, Configuration, ConnectionId, Lineage, Member};
use wal_types::{CopyId, Lsn, NodeId, ReplicaId};

use crate::batch::{Input, Outbox, Output, Rejection, run_batch};
use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::open_log::OpenLog;
use crate::reader::{ReadMode, WalReader};
use crate::recover::{Recovered, recover};
use crate::segment::UnreadablePolicy;
use crate::snapshot::{Health, Snapshot, SnapshotCell};
use crate::start_history;
use crate::work::{Outcome, Task, Work, WorkDone};

/// Time between a failed recovery and the next attempt.
const RECOVERY_RETRY: Duration = Duration::from_secs(1);

/// Number of recoveries in a row that may fail because acknowledged WAL cannot be read. The next one counts that WAL as
/// lost.
///
/// A bad sector stays bad, and a node that waits for it for ever cannot be repaired from its peers. A lost node can be
/// repaired, without risk, because it does not vote until then. But a cable or a controller may fail under all nodes at
/// once, and they must not all count as lost when it works again. So the node waits half a minute first, in which each
/// attempt could read and write the control file of the same disk.
pub const UNREADABLE_TRIES_MAX: u32 = 30;

/// One timeline of one safekeeper: acceptor and files.
///
/// ```text
/// create ──> open ──> { write(batch) … sync() | tick(now) | take_work() … finish(done) } ──> checkpoint_for_shutdown() ──> drop
/// ```
pub struct Replica<D: Disk> {
    disk: D,
    node: NodeId,
    disk_id: [u8; 16],
    replica_id: ReplicaId,
    state: LogState<D>,
    snapshots: SnapshotCell,
    /// Connections that must be told of a failure: each sent something and was not refused since.
    connections: BTreeSet<ConnectionId>,
    /// Results of batches that wait for the next sync.
    pending: Output,
    /// Readers and retention need the log from here on.
    keep_from: Lsn,
    now: Duration,
    /// A [`Work`] was taken and has not come back.
    is_work_out: bool,
    /// The last work that came back was a segment, and the disk had room for it.
    is_segment_adopted: bool,
}

enum LogState<D: Disk> {
    /// Memory and disk agree.
    Open(Box<OpenLog<D>>),
    /// A write or sync failed: what the disk holds is unknown until a recovery has read it.
    Failed { rejection: Rejection, recover_at: Duration, unreadable_tries: u32 },
}

impl<D: Disk> Replica<D> {
    /// Writes an empty log to an empty directory. Durable when it returns, except for the directory's own name.
    /// `copy` names the safekeeper and the copy: its replica id must be drawn anew for each creation. `configuration` lists
    /// the first members, if they are known already. Otherwise the copy grants no vote until [`Replica::bootstrap`], or until
    /// a leader feeds it.
    ///
    /// # Errors
    /// `Exists` when the directory holds a timeline, `InvalidLineage` and `InvalidConfiguration` for arguments that no
    /// log can have, `Full` and `Io` from the disk.
    pub fn create(
        disk: &D,
        copy: CopyId,
        disk_id: [u8; 16],
        lineage: Lineage,
        configuration: Configuration,
    ) -> Result<(), StoreError> {
        create_log(disk, Control::founded(copy, disk_id, lineage, configuration)?, None)
    }

    /// [`Replica::create`] of a log without members, with the text of the history file of the timeline that the log begins
    /// on: for a cluster that was promoted before.
    pub fn create_with_history(
        disk: &D,
        copy: CopyId,
        disk_id: [u8; 16],
        lineage: Lineage,
        start_history: &[u8],
    ) -> Result<(), StoreError> {
        start_history::check(&lineage, start_history)?;
        let lineage = Lineage { start_history: Some(start_history::digest_of(start_history)), ..lineage };
        let content = Control::founded(copy, disk_id, lineage, Configuration::default())?;
        create_log(disk, content, Some(start_history))
    }

    /// Tells a new copy who the first members of its log are; see [`consensus::Acceptor::bootstrap`]. Durable when it
    /// returns.
    ///
    /// # Errors
    /// The outer error: the disk failed, now or before, and the log recovers. The inner one: the copy refuses.
    pub fn bootstrap(&mut self, members: Vec<Member>) -> Result<Result<(), BootstrapRefused>, Rejection> {
        let mut result = None;
        self.with_open_log(|log, outbox| {
            log.flush(outbox)?;
            result = Some(log.bootstrap(members, outbox)?);
            outbox.snapshots.publish_if_new(log.snapshot());
            Ok(())
        });
        match (&self.state, result) {
            (LogState::Open(_), Some(result)) => Ok(result),
            (LogState::Failed { rejection, .. }, _) => Err(rejection.clone()),
            (LogState::Open(_), None) => Err(Rejection::Disk("nothing was done".to_owned())),
        }
    }

    /// Recovers the log of a directory. A log that misses acknowledged WAL opens with [`Health::Lost`].
    ///
    /// # Errors
    /// `Corrupt` when the node's promises are damaged, `Missing`, `OtherNode`, `Format`, and errors of the disk.
    pub fn open(disk: D, node: NodeId) -> Result<Self, StoreError> {
        Self::open_after_read_errors(disk, node, 0)
    }

    /// [`Replica::open`] after `unreadable_tries` attempts in a row that ended with [`StoreError::Unreadable`]; see
    /// [`UNREADABLE_TRIES_MAX`].
    pub fn open_after_read_errors(disk: D, node: NodeId, unreadable_tries: u32) -> Result<Self, StoreError> {
        let log = OpenLog::new(recover(&disk, node, unreadable_policy(unreadable_tries))?, 0);
        Ok(Self {
            disk,
            node,
            disk_id: log.disk_id(),
            replica_id: log.replica_id(),
            snapshots: SnapshotCell::new(log.snapshot()),
            state: LogState::Open(Box::new(log)),
            connections: BTreeSet::new(),
            pending: Output::default(),
            keep_from: Lsn::INVALID,
            now: Duration::ZERO,
            is_work_out: false,
            is_segment_adopted: false,
        })
    }

    /// Random number of the data directory that the log was created in.
    pub fn disk_id(&self) -> [u8; 16] {
        self.disk_id
    }

    /// The copy: drawn when it was created.
    pub fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    /// The newest snapshot. Cheap: one `Arc`.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// The cell that always holds the newest snapshot, for other threads.
    pub fn snapshot_cell(&self) -> SnapshotCell {
        self.snapshots.clone()
    }

    /// A reader of this log, for another thread.
    pub fn reader(&self, mode: ReadMode) -> WalReader<D> {
        WalReader::new(self.disk.clone(), self.snapshots.clone(), mode)
    }

    /// Sets the position from which [`Retention`](crate::Retention) keeps the log. [`Replica::tick`] removes committed WAL
    /// below it. Until the first call nothing is removed.
    pub fn set_keep_from(&mut self, lsn: Lsn) {
        self.keep_from = lsn;
    }

    /// Decides a batch and makes it durable. Each connection with an append in it gets one response. Blocks for every
    /// [`Work`] that the batch needs: for callers that serve nothing else.
    pub fn run(&mut self, batch: Vec<(ConnectionId, Input)>) -> Output {
        if self.is_failed() {
            let _ = self.work_here();
        }
        self.write(batch);
        let mut output = self.sync();
        while !output.undecided.is_empty()
            && let Some(done) = self.take_work().map(Work::run)
        {
            let refused = self.finish(done);
            if !self.is_segment_adopted {
                output.append(refused);
                break;
            }
            // The second attempt answers those that were told to wait.
            let again = std::mem::take(&mut output.undecided);
            output.drop_append_responses(&again);
            self.write(again);
            output.append(self.sync());
        }
        output
    }

    /// [`Replica::tick`] and every [`Work`] that is due, in this thread.
    pub fn run_tick(&mut self, now: Duration) -> Output {
        let was_failed = self.is_failed();
        let mut output = self.tick(now);
        if was_failed || !self.is_failed() {
            output.append(self.work_here());
        }
        output
    }

    fn work_here(&mut self) -> Output {
        let was_failed = self.is_failed();
        let mut output = Output::default();
        // A failure is seen by the caller before the log is recovered.
        while (was_failed || !self.is_failed())
            && let Some(work) = self.take_work()
        {
            output.append(self.finish(work.run()));
        }
        output
    }

    fn is_failed(&self) -> bool {
        matches!(self.state, LogState::Failed { .. })
    }

    /// First half of a round: decides a batch and writes what it appends. A caller with several replicas on one disk lets
    /// all of them write before the first one syncs. WAL for which there is no segment yet stays undecided, and
    /// [`Replica::take_work`] has the segment.
    pub fn write(&mut self, batch: Vec<(ConnectionId, Input)>) {
        for (connection, input) in &batch {
            match input {
                Input::Message(_) => self.connections.insert(*connection),
                Input::Disconnected => self.connections.remove(connection),
            };
        }
        self.with_open_log(|log, outbox| run_batch(log, batch, outbox));
    }

    /// Second half of a round: makes what was written durable, and returns the replies.
    pub fn sync(&mut self) -> Output {
        self.with_open_log(|log, outbox| log.flush(outbox));
        self.take_output()
    }

    /// Periodic work: persists the commit position, and removes old WAL.
    ///
    /// `now` counts from any fixed moment. Call it several times a second, after the replies of a batch are posted.
    pub fn tick(&mut self, now: Duration) -> Output {
        self.now = self.now.max(now);
        let keep_from = self.keep_from;
        self.with_open_log(|log, outbox| {
            log.flush(outbox)?;
            log.tick(now, keep_from, outbox)
        });
        self.take_output()
    }

    /// When the next tick has something to do: not before this time. `None` when there is nothing until a message, a
    /// result of [`Replica::finish`] or a new position of [`Replica::set_keep_from`] comes.
    pub fn next_tick(&self) -> Option<Duration> {
        match &self.state {
            LogState::Open(log) => log.next_tick(),
            LogState::Failed { rejection: Rejection::Disk(_), recover_at, .. } => {
                (!self.is_work_out).then_some(*recover_at)
            }
            LogState::Failed { .. } => None,
        }
    }

    /// Persists at once what ticks persist sooner or later; for an orderly shutdown. Acknowledged WAL is durable without
    /// it; after it the disk also says how far WAL was acknowledged.
    pub fn checkpoint_for_shutdown(&mut self) -> Output {
        self.with_open_log(|log, outbox| {
            log.flush(outbox)?;
            log.checkpoint_for_shutdown(outbox)
        });
        self.take_output()
    }

    /// Work for another thread, if any is due: the next segment, or the recovery of a failed log. Cheap, so it may be
    /// called after every round and tick. Bring the result to [`Replica::finish`]; until then there is no other work.
    pub fn take_work(&mut self) -> Option<Work<D>> {
        if self.is_work_out {
            return None;
        }
        let task = match &mut self.state {
            LogState::Open(log) => Task::Segment(log.next_blank()?),
            // Every connection that the failed log served is told of the failure before the log serves again.
            LogState::Failed { recover_at, rejection: Rejection::Disk(_), unreadable_tries }
                if self.now >= *recover_at && self.connections.is_empty() =>
            {
                let unreadable = unreadable_policy(*unreadable_tries);
                Task::Recovery { disk: self.disk.clone(), node: self.node, unreadable }
            }
            LogState::Failed { .. } => return None,
        };
        self.is_work_out = true;
        Some(Work(task))
    }

    /// Takes back the result of a [`Work`]. Messages that were undecided should be offered again afterwards, unless the
    /// snapshot says that the disk is full.
    pub fn finish(&mut self, done: WorkDone<D>) -> Output {
        self.is_work_out = false;
        self.is_segment_adopted = false;
        match done.0 {
            Outcome::Segment(written) => {
                let mut adopted = false;
                self.with_open_log(|log, _| {
                    adopted = log.adopt_blank(written)?;
                    Ok(())
                });
                self.is_segment_adopted = adopted;
                self.take_output()
            }
            Outcome::Recovery(recovered) => {
                // Connections that came meanwhile are told of the failure, too.
                let refused = self.take_output();
                self.recovered(recovered);
                refused
            }
        }
    }

    fn recovered(&mut self, recovered: Result<Box<Recovered<D>>, StoreError>) {
        let LogState::Failed { unreadable_tries, .. } = self.state else { return };
        let truncations = self.snapshots.current().truncations + 1;
        match recovered {
            Ok(recovered) => {
                let log = OpenLog::new(*recovered, truncations);
                self.snapshots.publish(log.snapshot());
                self.state = LogState::Open(Box::new(log));
            }
            Err(error) => {
                let is_unreadable = matches!(error, StoreError::Unreadable { .. });
                let tries = if is_unreadable { unreadable_tries.saturating_add(1) } else { 0 };
                self.enter_failed(&error, self.now + RECOVERY_RETRY, tries);
            }
        }
    }

    /// Runs `act` on the open log, if it is open. An error closes it.
    fn with_open_log(
        &mut self,
        act: impl FnOnce(&mut OpenLog<D>, &mut Outbox<'_>) -> Result<(), StoreError>,
    ) {
        let LogState::Open(log) = &mut self.state else { return };
        let mut outbox = Outbox { output: &mut self.pending, snapshots: &self.snapshots };
        if let Err(error) = act(log, &mut outbox) {
            self.enter_failed(&error, self.now, 0);
        }
    }

    /// Returns the results so far. If the disk failed meanwhile there are none, and every connection is refused.
    fn take_output(&mut self) -> Output {
        let output = std::mem::take(&mut self.pending);
        match &self.state {
            LogState::Open(log) => {
                self.snapshots.publish_if_new(log.snapshot());
                for (connection, _) in &output.refused {
                    self.connections.remove(connection);
                }
                output
            }
            LogState::Failed { rejection, .. } => {
                let refused = std::mem::take(&mut self.connections).into_iter();
                Output { refused: refused.map(|id| (id, rejection.clone())).collect(), ..Output::default() }
            }
        }
    }

    fn enter_failed(&mut self, error: &StoreError, recover_at: Duration, unreadable_tries: u32) {
        tracing::error!(%error, "disk failed, timeline stops answering until its log is recovered");
        let (rejection, health) = match error {
            StoreError::Corrupt(what) if !error.is_loss_of_wal() => {
                (Rejection::Corrupt(what.to_string()), Health::Corrupt)
            }
            other => (Rejection::Disk(other.to_string()), Health::Failed),
        };
        // Readers must drop their files: the recovery will replace some.
        let before = self.snapshots.current();
        let truncations = before.truncations + 1;
        self.snapshots.publish(Snapshot { health, truncations, ..(*before).clone() });
        self.pending = Output::default();
        self.state = LogState::Failed { rejection, recover_at, unreadable_tries };
    }
}

/// Writes the files of an empty log: the control file last.
fn create_log<D: Disk>(disk: &D, content: Control, start_history: Option<&[u8]>) -> Result<(), StoreError> {
    ControlFile::create_with(disk, &content, || match start_history {
        Some(text) => start_history::write(disk, text),
        None => Ok(()),
    })
}

/// What to do about WAL that cannot be read, after so many attempts.
fn unreadable_policy(unreadable_tries: u32) -> UnreadablePolicy {
    if unreadable_tries < UNREADABLE_TRIES_MAX {
        UnreadablePolicy::Fail
    } else {
        UnreadablePolicy::TreatAsLost
    }
}
