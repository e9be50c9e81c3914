//! [`Node`]: one safekeeper of a schedule, a `Replica` on a model disk with its queue of messages and its ways to go
//! down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Configuration, ConnectionId, Dialect, Lineage, Member, ProposerMessage};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use wal_store::{
    Fault, Health, Input, ModelDisk, Output, ReadMode, ReadOutcome, Replica, Snapshot, StoreError,
    UNREADABLE_TRIES_MAX, WalReader, Work, WorkDone,
};
use wal_types::{CopyId, Generation, Lsn, NodeId, ReplicaId, TenantTimelineId, Term, Tli};

use crate::mirror::Mirror;
use crate::primary::{CONTEXT, SEGMENT_SIZE, START};

/// Length of a member's host name. Three such names do not fit into one sector.
const HOST_BYTES: usize = 250;

/// How a node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// kill -9: the operating system keeps everything that was written.
    Process,
    /// Power loss: any part of what was not synced may be missing.
    Power,
}

/// A thread that does a replica's [`Work`] beside its messages.
enum OtherThread {
    Idle,
    Busy(Work<ModelDisk>),
    Done(WorkDone<ModelDisk>),
}

/// One safekeeper.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk: ModelDisk,
    replica: Option<Replica<ModelDisk>>,
    inbox: VecDeque<(ConnectionId, Input)>,
    now: Duration,
    /// Number of starts.
    incarnation: u64,
    /// Work that the replica gave away.
    other_thread: OtherThread,
    /// Another thread does the work of the replica. Without one the replica does it itself, at once.
    has_other_thread: bool,
    /// Copy of its log as of the last [`Node::refresh_mirror`].
    pub(crate) mirror: Mirror,
    /// The configuration in its last snapshot.
    pub(crate) configuration: Arc<Configuration>,
    /// It reported lost WAL at the last check.
    pub(crate) was_lost: bool,
    /// The disk with its first copy of the log is gone for good, with all its promises.
    pub(crate) is_gone: bool,
    /// Its disk serves nothing for the moment: no operation ends.
    pub(crate) is_stalled: bool,
    /// How often its log was created anew since, under the same number. Such a copy is no member, and proves nothing.
    pub(crate) anew: u64,
}

impl Node {
    /// Creates a node with an empty log that begins at `start`, and starts it.
    pub(crate) fn create(id: NodeId, dialect: Dialect, start: Lsn, configuration: Configuration) -> Self {
        let disk = new_disk();
        let lineage = lineage(dialect, start);
        Replica::create(&disk, member(id).copy(), disk_id(id), lineage, configuration.clone())
            .expect("an empty model disk has room");

        let configuration = Arc::new(configuration);
        let mut node = Self {
            id,
            disk,
            replica: None,
            inbox: VecDeque::new(),
            now: Duration::ZERO,
            incarnation: 0,
            other_thread: OtherThread::Idle,
            has_other_thread: false,
            mirror: Mirror::new(start),
            configuration,
            was_lost: false,
            is_gone: false,
            is_stalled: false,
            anew: 0,
        };

        node.start(0).expect("what was just created can be opened");
        node
    }

    /// Creates the log anew on an empty disk, as an operator does who knows no better, and starts the node.
    pub(crate) fn create_anew(&mut self, dialect: Dialect, start: Lsn) {
        self.disk = new_disk();
        self.anew += 1;
        let copy = CopyId {
            node: self.id,
            replica: ReplicaId(u128::from(self.id.0 + 1000 * self.anew).to_be_bytes()),
        };
        Replica::create(
            &self.disk,
            copy,
            disk_id(self.id),
            lineage(dialect, start),
            Configuration::default(),
        )
        .expect("an empty model disk has room");
        (self.mirror, self.was_lost) = (Mirror::new(start), false);
        self.configuration = Arc::default();
        self.start(0).expect("what was just created can be opened");
    }

    pub(crate) fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.replica.as_ref().map(Replica::snapshot)
    }

    /// The snapshot, unless the log has failed or is corrupt.
    pub(crate) fn serving(&self) -> Option<Arc<Snapshot>> {
        self.snapshot().filter(|at| !matches!(at.health, Health::Failed | Health::Corrupt))
    }

    /// The node reports that it lacks WAL that it had acknowledged.
    pub(crate) fn is_lost(&self) -> bool {
        self.snapshot().is_some_and(|at| at.lost.is_some())
    }

    /// Starts a node that is down. Fails when its disk does not allow it. `unreadable_tries` is how often an unreadable
    /// sector was tried before.
    pub(crate) fn start(&mut self, unreadable_tries: u32) -> Result<(), StoreError> {
        self.replica = Some(Replica::open_after_read_errors(self.disk.clone(), self.id, unreadable_tries)?);
        self.incarnation += 1;
        // Every other life, so that both ways are in each schedule.
        self.has_other_thread = !(self.incarnation + self.id.0).is_multiple_of(2);
        Ok(())
    }

    /// Ends a node. The cluster handles its connections.
    pub(crate) fn die(&mut self, death: Death, rng: &mut SmallRng) {
        self.replica = None;
        self.other_thread = OtherThread::Idle;
        self.inbox.clear();
        match death {
            Death::Process => self.disk = self.disk.kill(),
            Death::Power => self.disk = self.disk.crash(&mut || rng.next_u64()),
        }
    }

    /// Queues an input from a connection.
    pub(crate) fn deliver(&mut self, from: ConnectionId, input: Input) {
        if self.is_up() {
            self.inbox.push_back((from, input));
        }
    }

    /// Gives up to `count` messages to the replica as one batch. Messages that could not be decided for lack of disk
    /// space return to the head of the queue.
    pub(crate) fn run(&mut self, count: usize) -> Option<(Vec<(ConnectionId, Input)>, Output)> {
        if self.is_stalled {
            return None;
        }
        let replica = self.replica.as_mut()?;
        let count = count.min(self.inbox.len());
        let batch: Vec<_> = self.inbox.drain(..count).collect();
        let output = if self.has_other_thread {
            replica.write(batch.clone());
            replica.sync()
        } else {
            replica.run(batch.clone())
        };
        for undecided in output.undecided.iter().rev() {
            self.inbox.push_front(undecided.clone());
        }
        let output = self.advance_work(output);
        Some((batch, output))
    }

    /// One step of the other thread: it takes work, does it, or brings back what came of it. Each step is in a turn of its
    /// own, so that messages, ticks and failures come in between.
    fn advance_work(&mut self, output: Output) -> Output {
        let Some(replica) = self.replica.as_mut() else { return output };
        self.other_thread = match std::mem::replace(&mut self.other_thread, OtherThread::Idle) {
            OtherThread::Idle => replica.take_work().map_or(OtherThread::Idle, OtherThread::Busy),
            OtherThread::Busy(work) => OtherThread::Done(work.run()),
            OtherThread::Done(done) => {
                let mut output = output;
                output.refused.extend(replica.finish(done).refused);
                return output;
            }
        };
        output
    }

    /// Advances the clock, so that the replica's delayed work becomes due.
    pub(crate) fn tick(&mut self, passed: Duration) -> Option<Output> {
        self.now += passed;
        if self.is_stalled {
            return None;
        }
        self.disk.refill_reserve();
        let replica = self.replica.as_mut()?;
        if !self.has_other_thread {
            return Some(replica.run_tick(self.now));
        }
        let output = replica.tick(self.now);
        Some(self.advance_work(output))
    }

    /// Allows the removal of WAL below `lsn`: readers and retention do not need it.
    pub(crate) fn keep_from(&mut self, lsn: Lsn) {
        if let Some(replica) = &mut self.replica {
            replica.set_keep_from(lsn);
        }
    }

    /// Brings the mirror up to date. Returns the position from which the log differs from the earlier mirror, or `None`
    /// when the log cannot be read now.
    pub(crate) fn refresh_mirror(&mut self) -> Option<Lsn> {
        let replica = self.replica.as_ref()?;
        let at = replica.snapshot();
        if matches!(at.health, Health::Failed | Health::Corrupt) {
            return None;
        }

        self.configuration = at.configuration.clone();
        let seen = (self.incarnation, at.truncations);
        self.mirror.forget_below(at.oldest_lsn);
        let from = if self.mirror.seen == seen { self.mirror.end() } else { self.mirror.base() };
        if at.flush_lsn <= from && self.mirror.seen == seen {
            return Some(from);
        }

        self.disk.pause_faults(true);
        let bytes = read_log(replica, from, at.flush_lsn);
        self.disk.pause_faults(false);
        if from.advance(bytes.len() as u64) < at.flush_lsn {
            return None;
        }

        self.mirror.seen = seen;
        Some(self.mirror.replace(from, &bytes))
    }

    /// True when the mirror shows the log as it is now.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.serving().is_some_and(|at| self.mirror.seen == (self.incarnation, at.truncations))
    }

    /// Makes the next refresh read the whole log again.
    pub(crate) fn invalidate_mirror(&mut self) {
        self.mirror.seen = (0, 0);
    }

    /// The bytes `[from, to)` as this node reads them now; fewer when it does not have them all.
    pub(crate) fn read(&self, from: Lsn, to: Lsn) -> Vec<u8> {
        self.replica.as_ref().map(|replica| read_log(replica, from, to)).unwrap_or_default()
    }

    /// A reader of the log in the given mode.
    pub(crate) fn reader(&self, mode: ReadMode) -> Option<WalReader<ModelDisk>> {
        self.replica.as_ref().map(|replica| replica.reader(mode))
    }

    /// Number of starts of the node. Two equal numbers mean the same process.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// First position and bytes of the log up to `to`, as a start would find them if the power failed now and nothing
    /// unsynced survived. The error tells why the log would be shorter or the start would fail.
    pub(crate) fn after_power_loss(&self, to: Lsn) -> Result<(Lsn, Vec<u8>), String> {
        let replica = self.recovered_after_power_loss().map_err(|error| error.to_string())?;
        let at = replica.snapshot();
        if at.flush_lsn < to {
            return Err(format!("its log would end at {}", at.flush_lsn));
        }
        let from = at.oldest_lsn.max(START).min(to);
        Ok((from, read_log(&replica, from, to)))
    }

    /// The commit position that a start after a power failure would find.
    pub(crate) fn commit_after_power_loss(&self) -> Option<Lsn> {
        self.recovered_after_power_loss().ok().map(|replica| replica.snapshot().commit_lsn)
    }

    /// Term and generation of the configuration that a start after a power failure would find.
    pub(crate) fn configuration_after_power_loss(&self) -> Option<(Term, Generation)> {
        let at = self.recovered_after_power_loss().ok()?.snapshot();
        Some((at.configuration_term, at.configuration.generation))
    }

    fn recovered_after_power_loss(&self) -> Result<Replica<ModelDisk>, StoreError> {
        let disk = self.disk.fork().crash(&mut || 0);
        disk.set_capacity_bytes(None);
        // Reading is retried to the limit here, so an unreadable sector counts as damaged.
        Replica::open_after_read_errors(disk, self.id, UNREADABLE_TRIES_MAX)
    }

    /// True when one of the next `count` messages may truncate the log.
    pub(crate) fn may_truncate(&self, count: usize) -> bool {
        self.is_up() && lowest_truncation(self.inbox.iter().take(count)).is_some()
    }

    /// Makes the disk stop within its next `max` operations.
    pub(crate) fn plan_crash(&mut self, rng: &mut SmallRng, max: u64) {
        self.disk.crash_after(rng.random_range(0..max));
    }

    /// Makes one of the next `max` operations of a kind fail.
    pub(crate) fn plan_fault(&mut self, fault: Fault, rng: &mut SmallRng, max: u64) {
        self.disk.fail(fault, rng.random_range(0..max));
    }

    /// Fills the disk, or frees its space again.
    pub(crate) fn fill_disk(&mut self, full: bool) {
        self.disk.set_capacity_bytes(full.then(|| self.disk.used_bytes()));
    }
}

/// An empty disk with the room of one segment set aside for recoveries.
fn new_disk() -> ModelDisk {
    let disk = ModelDisk::new();
    disk.set_reserve(1);
    disk
}

fn lineage(dialect: Dialect, start: Lsn) -> Lineage {
    Lineage {
        id: TenantTimelineId::default(),
        dialect,
        system_id: CONTEXT.system_id,
        pg_version: 150_000,
        segment_size: SEGMENT_SIZE,
        start_lsn: start,
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    }
}

/// The lowest position at which the `Elected` messages of a batch may truncate the log.
pub(crate) fn lowest_truncation<'a>(batch: impl Iterator<Item = &'a (ConnectionId, Input)>) -> Option<Lsn> {
    batch
        .filter_map(|(_, input)| match input {
            Input::Message(ProposerMessage::Elected(elected)) => Some(elected.start_streaming_at),
            _ => None,
        })
        .min()
}

/// An entry of a configuration. Host names are so long that a control slot spans sectors and a crash can tear it.
pub(crate) fn member(id: NodeId) -> Member {
    Member { id, host: "h".repeat(HOST_BYTES), port: 1, replica: replica_id(id) }
}

/// The bytes `[from, to)` of a log, as far as they can be read.
pub(crate) fn read_log(replica: &Replica<ModelDisk>, from: Lsn, to: Lsn) -> Vec<u8> {
    let mut reader = replica.reader(ReadMode::Flushed(replica.snapshot().term));
    let mut bytes = vec![0; to.bytes_since(from) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(from.advance(filled as u64), &mut bytes[filled..]) {
            Ok(ReadOutcome::Bytes(count)) => filled += count,
            Ok(ReadOutcome::Nothing | ReadOutcome::Changed) | Err(_) => break,
        }
    }
    bytes.truncate(filled);
    bytes
}

/// The first copy of a node.
fn replica_id(id: NodeId) -> ReplicaId {
    ReplicaId(u128::from(id.0).to_be_bytes())
}

fn disk_id(id: NodeId) -> [u8; 16] {
    u128::from(id.0).to_be_bytes()
}
