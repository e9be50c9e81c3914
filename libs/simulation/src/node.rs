//! [`Node`]: a safekeeper: a `Replica` on a model disk, the messages that wait for it, and the ways in which it dies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Configuration, ConnectionId, Dialect, Lineage, Member, ProposerMessage};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use wal_store::{Fault, Input, ModelDisk, Output, Read, ReadMode, Replica, Snapshot, StoreError};
use wal_types::{Lsn, NodeId, TenantTimelineId, Tli};

use crate::primary::{CONTEXT, SEGMENT_SIZE, START};

/// Three names of this length do not fit into a sector.
const HOST_BYTES: usize = 250;

/// How a node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// kill -9: the operating system keeps what was written.
    Process,
    /// Power loss: of what was not synced, any part may be missing.
    Power,
}

/// One safekeeper.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk: ModelDisk,
    replica: Option<Replica<ModelDisk>>,
    inbox: VecDeque<(ConnectionId, Input)>,
    now: Duration,
}

impl Node {
    /// A node with a new, empty timeline.
    pub(crate) fn create(id: NodeId, members: &[NodeId], timeline: TenantTimelineId) -> Self {
        let disk = ModelDisk::new();
        let lineage = Lineage {
            id: timeline,
            dialect: Dialect::Holdfast,
            system_id: CONTEXT.system_id,
            pg_version: 150_000,
            segment_size: SEGMENT_SIZE,
            start_lsn: START,
            start_tli: Tli::FIRST,
        };
        // Host names so long that a control slot spans sectors, and a crash can tear it.
        let member = |&id| Member { id, host: "h".repeat(HOST_BYTES), port: 1 };
        let configuration =
            Configuration { members: members.iter().map(member).collect(), ..Configuration::default() };
        Replica::create(&disk, id, disk_id(id), lineage, configuration)
            .expect("an empty model disk has room");
        let mut node = Self { id, disk, replica: None, inbox: VecDeque::new(), now: Duration::ZERO };
        node.start().expect("what was just created can be opened");
        node
    }

    pub(crate) fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.replica.as_ref().map(Replica::snapshot)
    }

    /// Starts a node that is down, unless what is on its disk does not let it.
    pub(crate) fn start(&mut self) -> Result<(), StoreError> {
        self.replica = Some(Replica::open(self.disk.clone(), self.id)?);
        Ok(())
    }

    /// Ends a node. Connections are the cluster's business.
    pub(crate) fn die(&mut self, death: Death, rng: &mut SmallRng) {
        self.replica = None;
        self.inbox.clear();
        match death {
            Death::Process => self.disk = self.disk.kill(),
            Death::Power => self.disk = self.disk.crash(&mut || rng.next_u64()),
        }
    }

    /// Queues what a connection delivered.
    pub(crate) fn deliver(&mut self, from: ConnectionId, input: Input) {
        if self.is_up() {
            self.inbox.push_back((from, input));
        }
    }

    /// Hands up to `count` messages to the replica as one batch. What could not be decided for want of space waits at
    /// the head of the queue.
    pub(crate) fn run(&mut self, count: usize) -> Option<(Vec<(ConnectionId, Input)>, Output)> {
        let replica = self.replica.as_mut()?;
        let count = count.min(self.inbox.len());
        let batch: Vec<_> = self.inbox.drain(..count).collect();
        let output = replica.run(batch.clone());
        for undecided in output.undecided.iter().rev() {
            self.inbox.push_front(undecided.clone());
        }
        Some((batch, output))
    }

    /// Lets time pass: what the replica does lazily becomes due.
    pub(crate) fn tick(&mut self, passed: Duration) -> Option<Output> {
        self.now += passed;
        Some(self.replica.as_mut()?.tick(self.now))
    }

    /// The bytes `[from, to)` of the log, as this node would read them now; fewer when it does not have them all.
    pub(crate) fn read(&self, from: Lsn, to: Lsn) -> Vec<u8> {
        self.replica.as_ref().map(|replica| read_log(replica, from, to)).unwrap_or_default()
    }

    /// The log up to `to` as it would be found after the power failed now and what was not synced was lost; what stands
    /// in the way, when it would be shorter or not start.
    pub(crate) fn after_power_loss(&self, to: Lsn) -> Result<Vec<u8>, String> {
        let disk = self.disk.fork().crash(&mut || 0);
        disk.set_capacity_bytes(None);
        let replica = Replica::open(disk, self.id).map_err(|error| error.to_string())?;
        let flush_lsn = replica.snapshot().flush_lsn;
        if flush_lsn < to {
            Err(format!("its log would end at {flush_lsn}"))
        } else {
            Ok(read_log(&replica, START, to))
        }
    }

    /// True when the next `count` messages may cut the log.
    pub(crate) fn may_cut(&self, count: usize) -> bool {
        let elected = |input: &Input| matches!(input, Input::Message(ProposerMessage::Elected(_)));
        self.is_up() && self.inbox.iter().take(count).any(|(_, input)| elected(input))
    }

    /// Makes the disk stop at some operation in the near future.
    pub(crate) fn plan_crash(&mut self, rng: &mut SmallRng) {
        self.disk.crash_after(rng.random_range(0..12));
    }

    /// Makes one of the next operations fail.
    pub(crate) fn plan_fault(&mut self, fault: Fault, rng: &mut SmallRng) {
        self.disk.fail(fault, rng.random_range(0..4));
    }

    /// Leaves no room on the disk, or gives it back.
    pub(crate) fn fill_disk(&mut self, full: bool) {
        self.disk.set_capacity_bytes(full.then(|| self.disk.used_bytes()));
    }
}

fn read_log(replica: &Replica<ModelDisk>, from: Lsn, to: Lsn) -> Vec<u8> {
    let mut reader = replica.reader(ReadMode::Flushed(replica.snapshot().term));
    let mut bytes = vec![0; to.bytes_since(from) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(from.advance(filled as u64), &mut bytes[filled..]) {
            Ok(Read::Bytes(count)) => filled += count,
            Ok(Read::Nothing | Read::Changed) | Err(_) => break,
        }
    }
    bytes.truncate(filled);
    bytes
}

fn disk_id(id: NodeId) -> [u8; 16] {
    u128::from(id.0).to_be_bytes()
}
