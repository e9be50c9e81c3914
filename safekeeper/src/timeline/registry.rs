//! [`Timelines`]: all timelines of this safekeeper. Opens them after the start, while connections are served already,
//! creates them over HTTP, finds them for connections.
//!
//! A timeline that cannot be opened neither votes nor serves. It is listed with the reason, and the others are served. When
//! its disk is full or failed, opening is tried again until it succeeds. When its log is damaged, or belongs to another
//! safekeeper or disk, it is quarantined: it is left as it is for the operator.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use consensus::Configuration;
use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use wal_store::{RealDisk, Replica, RoomReserve, StoreError};
use wal_types::{CopyId, ReplicaId, TenantTimelineId};

use super::create::{CreateError, Creation, NewTimeline};
use super::directory;
use super::handle::Timeline;
use super::not_served::{NotServed, OpenError};
use super::open_retries::OpenRetries;
use super::opening::Opening;
use crate::data_dir::{DataDir, Identity};
use crate::feedback::Readers;
use crate::retention::TimelineHolds;
use crate::shard::{OpenedTimeline, ShardCommand, ShardPool, TimelineKey};
use crate::slots::TimelineSlots;
use crate::start_history::StartHistory;

/// Threads that open timelines after a start.
const OPENING_THREADS: usize = 4;

/// Time for which a client waits for a timeline that is not open yet, before it is told to come back.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// All timelines of this safekeeper.
#[derive(Debug)]
pub(crate) struct Timelines {
    data_dir: DataDir,
    reserve: Arc<RoomReserve>,
    pool: ShardPool,
    open_retries: OpenRetries,
    /// Timelines that were found at the start and are not open yet.
    opening: Opening,
    opening_threads: parking_lot::Mutex<Vec<JoinHandle<()>>>,
    entries: RwLock<BTreeMap<TenantTimelineId, Entry>>,
    next_key: AtomicU64,
    /// One creation at a time, so that two of the same timeline cannot race.
    creating: Mutex<()>,
}

/// A timeline that is on disk: its handle, or why it is not served.
type Entry = Result<Arc<Timeline>, NotServed>;

/// Opens one timeline again and again.
struct OpenRetry {
    timelines: Weak<Timelines>,
    id: TenantTimelineId,
    key: TimelineKey,
    /// Result of the last attempt. A reason is logged when it changes, not every second.
    last: NotServed,
    /// Attempts in a row for which a part of the log could not be read.
    unreadable_tries: u32,
}

/// A failed attempt to open a timeline.
struct FailedOpen {
    why: NotServed,
    is_unreadable: bool,
}

impl Timelines {
    /// Finds every timeline of the data directory, and lets threads open them. Each is served as soon as it is open; until
    /// then [`Timelines::opened`] waits for it.
    pub(crate) fn open(data_dir: DataDir, pool: ShardPool) -> io::Result<Arc<Self>> {
        let found = directory::scan(data_dir.path())?;
        let unopened = found.iter().map(|id| (*id, Err(NotServed::opening()))).collect();
        let timelines = Arc::new(Self {
            reserve: Arc::new(RoomReserve::new(data_dir.path())),
            data_dir,
            pool,
            open_retries: OpenRetries::default(),
            opening: Opening::new(&found),
            opening_threads: parking_lot::Mutex::default(),
            entries: RwLock::new(unopened),
            next_key: AtomicU64::new(0),
            creating: Mutex::default(),
        });

        // Recovery reads the end of each log: several at once keep the disk busy.
        for number in 0..OPENING_THREADS.min(found.len()) {
            let timelines_ref = Arc::clone(&timelines);
            let work = move || timelines_ref.open_found();
            let thread = Builder::new().name(format!("opening-{number}")).spawn(work)?;
            timelines.opening_threads.lock().push(thread);
        }
        Ok(timelines)
    }

    /// Opens the timelines that were found, the ones that are asked for first.
    fn open_found(self: &Arc<Self>) {
        while let Some(id) = self.opening.next() {
            self.open_one(id);
            self.opening.finished(id);
        }
    }

    /// Waits until the timeline has been opened after the start, or [`OPEN_WAIT`] has passed. Cancel-safe. Returns at once
    /// for a timeline that is open or does not exist.
    pub(crate) async fn opened(&self, id: TenantTimelineId) {
        if let Some(opened) = self.opening.ask(id) {
            let _ = tokio::time::timeout(OPEN_WAIT, opened).await;
        }
    }

    /// Number of timelines that were found at the start and not tried yet.
    pub(crate) fn left_to_open(&self) -> usize {
        self.opening.left()
    }

    /// The timeline, or why it is not served. `None` when it does not exist here.
    pub(crate) fn find(&self, id: TenantTimelineId) -> Option<Result<Arc<Timeline>, NotServed>> {
        self.entries.read().get(&id).cloned()
    }

    /// The timeline if it exists here and is served.
    pub(crate) fn find_served(&self, id: TenantTimelineId) -> Option<Arc<Timeline>> {
        self.entries.read().get(&id)?.as_ref().ok().cloned()
    }

    /// All timelines in the order of their ids, each with its handle or why it is not served.
    pub(crate) fn all(&self) -> Vec<(TenantTimelineId, Result<Arc<Timeline>, NotServed>)> {
        self.entries.read().iter().map(|(&id, entry)| (id, entry.clone())).collect()
    }

    /// Number of the safekeeper, and id of its disk.
    pub(crate) const fn identity(&self) -> Identity {
        self.data_dir.identity()
    }

    /// The data directory.
    pub(crate) fn path(&self) -> &Path {
        self.data_dir.path()
    }

    /// Files of the reserve for recoveries on a full disk: how many there are, and how many there should be.
    pub(crate) fn reserve_files(&self) -> (usize, usize) {
        self.reserve.present_and_wanted()
    }

    /// Sets room aside again for what recoveries took of the reserve. Blocks.
    pub(crate) fn refill_reserve(&self) {
        if let Err(error) = self.reserve.refill() {
            tracing::warn!(%error, "room for recoveries on a full disk cannot be set aside");
        }
    }

    /// False when a shard has ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }

    /// Creates a timeline. It is durable when this returns.
    pub(crate) async fn create(self: &Arc<Self>, new: NewTimeline) -> Result<Creation, CreateError> {
        let _one_at_a_time = self.creating.lock().await;
        let id = new.lineage.id;
        self.opened(id).await;
        match self.find(id) {
            Some(Ok(timeline)) => {
                return new.check_same(&timeline.snapshot()).map(|()| Creation::AlreadyExists);
            }
            Some(Err(why)) => return Err(CreateError::NotServed { id, why }),
            None => {}
        }

        let timelines = Arc::clone(self);
        // A task of its own: a client that disconnects does not leave half of a timeline.
        let created = spawn_blocking(move || timelines.create_one(&new)).await;
        match created {
            Ok(result) => {
                result.map(|()| Creation::Created).map_err(|error| CreateError::Store { id, error })
            }
            Err(_) => Err(CreateError::ShuttingDown { id }),
        }
    }

    /// Tries timelines again whose disk is full or failed, until `stop` is ready and the attempt under way has ended.
    pub(crate) async fn retry_opens(&self, stop: impl Future<Output = ()>) {
        self.open_retries.run(stop).await;
    }

    /// Opens no further timelines, lets the shards finish, and waits for them. Blocks.
    pub(crate) fn stop(&self) {
        self.opening.stop();
        for thread in std::mem::take(&mut *self.opening_threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("thread that opens timelines panicked");
            }
        }
        self.pool.stop();
    }

    fn create_one(self: &Arc<Self>, new: &NewTimeline) -> Result<(), StoreError> {
        let id = new.lineage.id;
        let identity = self.data_dir.identity();
        let directory = self.directory(id);
        // A copy that is created anew is another copy: it has none of the promises of the one before.
        let mut replica = [0; 16];
        getrandom::fill(&mut replica).map_err(io::Error::from)?;
        let copy = CopyId { node: identity.node, replica: ReplicaId(replica) };
        let created = RealDisk::create(&directory, |disk| {
            let (lineage, disk_id) = (new.lineage.clone(), identity.disk);
            match &new.start_history {
                Some(text) => Replica::create_with_history(disk, copy, disk_id, lineage, text),
                None => Replica::create(disk, copy, disk_id, lineage, Configuration::default()),
            }
        });
        if created.is_ok() {
            tracing::info!(timeline = %id, start_lsn = %new.lineage.start_lsn, "timeline created");
        }

        // The disk may fail after the directory got its final name. Such a directory is treated as at a start.
        if directory.is_dir() {
            self.open_one(id);
        }
        created
    }

    /// Opens a timeline. One whose disk is full or failed is tried again later.
    fn open_one(self: &Arc<Self>, id: TenantTimelineId) {
        let key = TimelineKey(self.next_key.fetch_add(1, Ordering::Relaxed));
        let Err(FailedOpen { why: last, is_unreadable }) = self.try_open(id, key, None, 0) else { return };
        if last.is_retried() {
            let unreadable_tries = is_unreadable.into();
            let timelines = Arc::downgrade(self);
            let mut retry = OpenRetry { timelines, id, key, last, unreadable_tries };
            self.open_retries.add(Box::new(move || retry.try_once()));
        }
    }

    /// Tries to open a timeline, and records the result. `last` is the failure that is recorded already; the same failure is
    /// neither logged nor recorded again.
    fn try_open(
        &self,
        id: TenantTimelineId,
        key: TimelineKey,
        last: Option<&NotServed>,
        unreadable_tries: u32,
    ) -> Result<(), FailedOpen> {
        match self.open_replica(id, key, unreadable_tries) {
            Ok(timeline) => {
                let snapshot = timeline.snapshot();
                tracing::info!(timeline = %id, flush_lsn = %snapshot.flush_lsn, term = %snapshot.term, "timeline opened");
                self.entries.write().insert(id, Ok(timeline));
                Ok(())
            }
            Err(error) => {
                let why = NotServed::new(&error);
                if last != Some(&why) {
                    let retried = why.is_retried();
                    tracing::error!(timeline = %id, %error, retried, "timeline cannot be opened and is not served");
                    self.entries.write().insert(id, Err(why.clone()));
                }
                let is_unreadable = matches!(error, OpenError::Store(StoreError::Unreadable { .. }));
                Err(FailedOpen { why, is_unreadable })
            }
        }
    }

    /// Opens the replica and gives it to its shard.
    fn open_replica(
        &self,
        id: TenantTimelineId,
        key: TimelineKey,
        unreadable_tries: u32,
    ) -> Result<Arc<Timeline>, OpenError> {
        let directory = self.directory(id);
        if !directory.try_exists()? {
            return Err(OpenError::DirectoryGone);
        }
        directory::write_marker(&directory)?;

        let disk = RealDisk::open(&directory)?.with_reserve(Arc::clone(&self.reserve));
        let identity = self.data_dir.identity();
        let replica = Replica::open_after_read_errors(disk.clone(), identity.node, unreadable_tries)?;
        if replica.disk_id() != identity.disk {
            return Err(OpenError::OtherDisk);
        }

        let snapshots = replica.snapshot_cell();
        let readers = Arc::new(Readers::default());
        let start_history = StartHistory::of(&replica.snapshot());
        let slots = TimelineSlots::load(disk.clone(), snapshots.clone())?;
        let holds = Arc::new(TimelineHolds::default());
        let (notify, changed) = watch::channel(());
        let timeline = Timeline {
            key,
            disk,
            shard: self.pool.shard_of(key),
            snapshots,
            changed,
            readers: Arc::clone(&readers),
            start_history,
            slots: Arc::clone(&slots),
            holds: Arc::clone(&holds),
            proposers: AtomicUsize::new(0),
        };
        let opened = Box::new(OpenedTimeline { id, replica, readers, slots, holds, changed: notify });
        let own = ShardCommand::Own { key, timeline: opened };
        timeline.shard.send(own).map_err(|_| OpenError::ShardEnded)?;
        Ok(Arc::new(timeline))
    }

    fn directory(&self, id: TenantTimelineId) -> PathBuf {
        directory::path_of(self.data_dir.path(), id)
    }
}

impl OpenRetry {
    /// Tries to open the timeline once. True when no further attempt is needed.
    fn try_once(&mut self) -> bool {
        let Some(timelines) = self.timelines.upgrade() else { return true };
        match timelines.try_open(self.id, self.key, Some(&self.last), self.unreadable_tries) {
            Ok(()) => true,
            Err(FailedOpen { why, is_unreadable }) => {
                self.unreadable_tries =
                    if is_unreadable { self.unreadable_tries.saturating_add(1) } else { 0 };
                self.last = why;
                !self.last.is_retried()
            }
        }
    }
}

#[cfg(test)]
mod tests;
