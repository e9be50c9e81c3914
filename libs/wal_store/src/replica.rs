//! [`Replica`]: one timeline of one safekeeper, synchronous: batches of messages in, replies out.
//!
//! Appends that follow one another, of any connections, are written one after the other and made durable by **one**
//! sync; every other message waits for that sync first. The caller owns the replica alone, calls it from any one
//! thread, and never needs a lock. The server and the simulation drive this very code; only the disk differs.
//!
//! After a failure of the disk nothing is answered from memory: all connections are refused, and the next call
//! recovers as a start does.

use std::collections::BTreeSet;
use std::time::Duration;

use consensus::{
    AcceptorMessage, AcceptorState, Configuration, ConnectionId, Effect, Lineage, ProposerMessage, Refusal,
};
use thiserror::Error;
use wal_types::{Lsn, NodeId};

use crate::control_codec::{Control, check_lineage};
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::open_log::{EffectSink, MessageOutcome, OpenLog};
use crate::reader::{ReadMode, WalReader};
use crate::recover::recover;
use crate::segment::UnreadablePolicy;
use crate::snapshot::{Health, Snapshot, SnapshotCell};

/// How long a caller waits before it offers an undecided message again.
pub const RESERVE_RETRY: Duration = Duration::from_secs(1);
/// How long a timeline waits after a recovery that failed.
const RECOVERY_RETRY: Duration = Duration::from_secs(1);

/// Recoveries in a row that fail because acknowledged WAL cannot be read; the next one counts it as lost. A bad sector
/// stays bad, and a node that waits for it for ever cannot even be repaired from its peers; lost it can, without risk,
/// because it does not vote until then. But if a cable or a controller fails under all nodes at once, they must not
/// all be lost when it is mended: so it takes half a minute, during which the control file of the same disk can be
/// read and written, each time.
pub const UNREADABLE_TRIES_MAX: u32 = 30;

/// What a connection brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message.
    Message(ProposerMessage),
    /// It is gone.
    Disconnected,
}

/// What became of a batch.
#[derive(Debug, Default)]
#[must_use]
pub struct Output {
    /// To be posted, in this order. What they promise is durable.
    pub replies: Vec<(ConnectionId, AcceptorMessage)>,
    /// How often WAL was made durable.
    pub wal_syncs: u32,
    /// To be closed. A replica has forgotten them already.
    pub refused: Vec<(ConnectionId, Rejection)>,
    /// No room: to be offered again after [`RESERVE_RETRY`], before anything else of that connection. Each append
    /// among them has an unchanged response in `replies`, which keeps its proposer from hanging up.
    pub undecided: Vec<(ConnectionId, Input)>,
}

/// Why a connection is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// What it said.
    #[error(transparent)]
    Protocol(#[from] Refusal),
    /// The disk failed; the proposer should come back.
    #[error("this safekeeper's disk failed: {0}")]
    Disk(String),
    /// What it promised is gone.
    #[error("this safekeeper's copy of the log is damaged: {0}")]
    Corrupt(String),
}

/// One timeline of one safekeeper.
pub struct Replica<D: Disk> {
    disk: D,
    node: NodeId,
    disk_id: [u8; 16],
    state: LogState<D>,
    snapshots: SnapshotCell,
    /// Connections that may believe to be served.
    connections: BTreeSet<ConnectionId>,
    /// Of batches that wait for the next sync.
    pending: Output,
    keep_from: Lsn,
    now: Duration,
}

enum LogState<D: Disk> {
    Open(Box<OpenLog<D>>),
    Failed { rejection: Rejection, recover_at: Duration, unreadable_tries: u32 },
}

/// Collects what a batch posts.
struct Outbox<'a> {
    output: &'a mut Output,
    snapshots: &'a SnapshotCell,
}

impl EffectSink for Outbox<'_> {
    fn reply(&mut self, to: ConnectionId, message: AcceptorMessage) {
        self.output.replies.push((to, message));
    }

    fn publish(&mut self, snapshot: Snapshot) {
        self.snapshots.publish(snapshot);
    }

    fn count_sync(&mut self) {
        self.output.wal_syncs += 1;
    }
}

impl<D: Disk> Replica<D> {
    /// Writes an empty log to an empty directory. Durable when it returns, but for the directory's own name.
    pub fn create(
        disk: &D,
        node: NodeId,
        disk_id: [u8; 16],
        lineage: Lineage,
        configuration: Configuration,
    ) -> Result<(), StoreError> {
        check_lineage(&lineage)?;
        configuration.validate()?;
        let commit_lsn = lineage.start_lsn;
        let state = AcceptorState { commit_lsn, configuration, ..AcceptorState::default() };
        ControlFile::create(disk, &Control::new(node, disk_id, lineage, state))
    }

    /// Recovers the log of a directory. One that has lost acknowledged WAL is opened, and lost; one that has lost its
    /// promises is not.
    pub fn open(disk: D, node: NodeId) -> Result<Self, StoreError> {
        Self::open_after_read_errors(disk, node, 0)
    }

    /// The same, after so many attempts in a row that ended with [`StoreError::Unreadable`].
    pub fn open_after_read_errors(disk: D, node: NodeId, unreadable_tries: u32) -> Result<Self, StoreError> {
        let log = OpenLog::new(node, recover(&disk, node, unreadable_policy(unreadable_tries))?, 0);
        Ok(Self {
            disk,
            node,
            disk_id: log.disk_id(),
            snapshots: SnapshotCell::new(log.snapshot()),
            state: LogState::Open(Box::new(log)),
            connections: BTreeSet::new(),
            pending: Output::default(),
            keep_from: Lsn::INVALID,
            now: Duration::ZERO,
        })
    }

    /// Random number of the data directory that the log was created in.
    pub fn disk_id(&self) -> [u8; 16] {
        self.disk_id
    }

    /// The newest snapshot: an `Arc`, so take it as often as you like.
    pub fn snapshot(&self) -> std::sync::Arc<Snapshot> {
        self.snapshots.current()
    }

    /// Where the newest snapshot always is, for other threads.
    pub fn snapshot_cell(&self) -> SnapshotCell {
        self.snapshots.clone()
    }

    /// A reader of this log, for another thread.
    pub fn reader(&self, mode: ReadMode) -> WalReader<D> {
        WalReader::new(self.disk.clone(), self.snapshots.clone(), mode)
    }

    /// Tells from where on readers and retention need the log. Below it, and below what members need of each other, it
    /// is removed by [`Replica::tick`]; until this is called nothing is.
    pub fn set_keep_from(&mut self, lsn: Lsn) {
        self.keep_from = lsn;
    }

    /// Decides a batch. Each connection with an append in it gets a response.
    pub fn run(&mut self, batch: Vec<(ConnectionId, Input)>) -> Output {
        self.write(batch);
        self.sync()
    }

    /// The first half of [`Replica::run`]: decides a batch and writes what it appends. Who has several replicas on one
    /// disk lets all of them write before the first one syncs.
    pub fn write(&mut self, batch: Vec<(ConnectionId, Input)>) {
        self.recover_if_failed();
        for (connection, input) in &batch {
            match input {
                Input::Message(_) => self.connections.insert(*connection),
                Input::Disconnected => self.connections.remove(connection),
            };
        }
        self.with_open_log(|log, outbox| run_batch(log, batch, outbox));
    }

    /// The second half: makes it durable, and hands out the answers.
    pub fn sync(&mut self) -> Output {
        self.with_open_log(|log, outbox| log.flush(outbox));
        self.take_output()
    }

    /// Does what is due: `now` counts from any moment. To be called several times a second, after the replies of a
    /// batch are posted.
    pub fn tick(&mut self, now: Duration) -> Output {
        self.now = self.now.max(now);
        self.recover_if_failed();
        let keep_from = self.keep_from;
        self.with_open_log(|log, outbox| {
            log.flush(outbox)?;
            log.tick(now, keep_from, outbox)
        });
        self.take_output()
    }

    /// Writes down at once what is otherwise written now and then: for an end that is none by surprise. What was
    /// acknowledged is durable without it; after it the disk also says that it was.
    pub fn checkpoint_for_shutdown(&mut self) -> Output {
        self.with_open_log(|log, outbox| {
            log.flush(outbox)?;
            log.checkpoint_for_shutdown(outbox)
        });
        self.take_output()
    }

    /// Tries to recover after a failure of the disk. [`Replica::run`] and [`Replica::tick`] do it by themselves.
    pub fn recover_if_failed(&mut self) {
        let LogState::Failed { recover_at, rejection: Rejection::Disk(_), unreadable_tries } = self.state
        else {
            return;
        };
        // Who believes to be served by what failed hears of the failure first.
        if self.now < recover_at || !self.connections.is_empty() {
            return;
        }
        let truncations = self.snapshots.current().truncations + 1;
        match recover(&self.disk, self.node, unreadable_policy(unreadable_tries)) {
            Ok(recovered) => {
                let log = OpenLog::new(self.node, recovered, truncations);
                self.snapshots.publish(log.snapshot());
                self.state = LogState::Open(Box::new(log));
            }
            Err(error) => {
                let is_one = matches!(error, StoreError::Unreadable { .. });
                let tries = if is_one { unreadable_tries.saturating_add(1) } else { 0 };
                self.enter_failed(&error, self.now + RECOVERY_RETRY, tries);
            }
        }
    }

    /// Runs something on the live state; a failure ends that state.
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

    /// The answers of what was done; when the disk failed meanwhile none of them, and everybody has to come back.
    fn take_output(&mut self) -> Output {
        let output = std::mem::take(&mut self.pending);
        match &self.state {
            LogState::Open(log) => {
                self.snapshots.publish(log.snapshot());
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
        tracing::error!(%error, "timeline stops answering until it is recovered from its disk");
        let (rejection, health) = match error {
            StoreError::Corrupt(what) if !error.is_loss_of_wal() => {
                (Rejection::Corrupt(what.to_string()), Health::Corrupt)
            }
            other => (Rejection::Disk(other.to_string()), Health::Failed),
        };
        // The recovery will replace files.
        let before = self.snapshots.current();
        let truncations = before.truncations + 1;
        self.snapshots.publish(Snapshot { health, truncations, ..(*before).clone() });
        self.pending = Output::default();
        self.state = LogState::Failed { rejection, recover_at, unreadable_tries };
    }
}

fn unreadable_policy(unreadable_tries: u32) -> UnreadablePolicy {
    if unreadable_tries < UNREADABLE_TRIES_MAX {
        UnreadablePolicy::Fail
    } else {
        UnreadablePolicy::TreatAsLost
    }
}

fn run_batch<D: Disk>(
    log: &mut OpenLog<D>,
    batch: Vec<(ConnectionId, Input)>,
    outbox: &mut Outbox<'_>,
) -> Result<(), StoreError> {
    // Connections whose later messages must wait, or are void.
    let mut waiting = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for (from, input) in batch {
        let message = match input {
            Input::Disconnected => {
                log.disconnected(from);
                outbox.output.undecided.retain(|(connection, _)| *connection != from);
                continue;
            }
            Input::Message(message) => message,
        };
        if refused.contains(&from) {
            continue;
        }
        if waiting.contains(&from) {
            outbox.output.undecided.push((from, Input::Message(message)));
            continue;
        }
        match log.handle_message(from, message.clone(), outbox)? {
            MessageOutcome::Done => {}
            MessageOutcome::Refused(refusal) => {
                log.disconnected(from);
                refused.insert(from);
                outbox.output.refused.push((from, refusal.into()));
            }
            MessageOutcome::NoRoom => {
                waiting.insert(from);
                if matches!(message, ProposerMessage::Append(_))
                    && let Effect::Reply { to, message } = log.unchanged_response(from)
                {
                    outbox.reply(to, message);
                }
                outbox.output.undecided.push((from, Input::Message(message)));
            }
        }
    }
    Ok(())
}
