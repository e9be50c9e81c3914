//! [`Timelines`]: all timelines of this safekeeper: found at start, created over HTTP, looked up by connections.
//!
//! One that cannot be opened neither votes nor serves; it is listed with the reason, and the others are served. What
//! becomes of it depends on the reason. A disk that failed or is full may be well again in a moment, so its thread goes
//! on trying, and with the first success it is served. A log that is damaged, or not ours, is quarantined: it is left
//! as it is, for somebody to look at.
//!
//! Beside its directory each timeline has an empty file, `<timeline>.promised`, made before it is served the first time.
//! When the directory is gone and this file is not, the safekeeper knows that it promised something and no longer what,
//! so it does not let the timeline be created anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use consensus::{Configuration, Lineage};
use parking_lot::RwLock;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use wal_store::{Health, RealDisk, Replica, StoreError};
use wal_types::{NodeId, TenantId, TenantTimelineId, Term, TimelineId};

use super::Timeline;
use super::open_error::OpenError;
use super::task::{DiskPool, Order, Owned, TimelineKey};
use crate::data_dir::{DataDir, Identity};
use crate::feedback::Readers;

const PROMISED_SUFFIX: &str = ".promised";

/// All timelines.
#[derive(Debug)]
pub(crate) struct Timelines {
    data_dir: DataDir,
    pool: DiskPool,
    known: RwLock<BTreeMap<TenantTimelineId, Known>>,
    next_key: AtomicU64,
    /// One creation at a time, so that two of the same timeline cannot race.
    creating: Mutex<()>,
}

#[derive(Clone, Debug)]
enum Known {
    Served(Arc<Timeline>),
    NotServed(NotServed),
}

/// Why a timeline that is here is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotServed {
    /// What is wrong: never `Healthy`. `Corrupt` also stands for a timeline that is not ours.
    pub(crate) health: Health,
    pub(crate) reason: Arc<str>,
}

impl NotServed {
    /// True when it may go away by itself, and is tried again.
    pub(crate) fn is_retried(&self) -> bool {
        self.health != Health::Corrupt
    }

    fn new(error: &OpenError) -> Self {
        let health = match error {
            OpenError::Store(StoreError::Full { .. }) => Health::Full,
            OpenError::Store(StoreError::Io { .. } | StoreError::Unreadable { .. })
            | OpenError::ThreadEnded => Health::Failed,
            OpenError::DirectoryGone | OpenError::OtherDisk | OpenError::Store(_) => Health::Corrupt,
        };
        Self { health, reason: error.to_string().into() }
    }
}

/// How the thread of a timeline tries to open it.
struct Reopening {
    timelines: Weak<Timelines>,
    id: TenantTimelineId,
    key: TimelineKey,
    /// What the last attempt came to. A reason is logged once, not every second.
    last: NotServed,
    /// Attempts in a row for which a part of the log could not be read.
    unreadable_tries: u32,
}

/// Why an attempt to open a timeline failed.
struct NotOpened {
    why: NotServed,
    is_unreadable: bool,
}

/// What is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTimeline {
    pub(crate) lineage: Lineage,
    pub(crate) configuration: Configuration,
    /// The disk that this safekeeper must have, if whoever creates it knows one.
    pub(crate) disk: Option<[u8; 16]>,
}

/// How a creation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is there, durably.
    Now,
    /// It was there, and is the same.
    Before,
}

/// Why nothing was created.
#[derive(Debug, Error)]
pub(crate) enum CreateError {
    #[error("timeline {id} exists with another {field}")]
    Different { id: TenantTimelineId, field: &'static str },
    #[error("timeline {id} exists and cannot be opened: {}", .why.reason)]
    NotServed { id: TenantTimelineId, why: NotServed },
    #[error(
        "timeline {id} is meant for another disk of safekeeper {node}: what that disk promised, this one does not \
         know; make this safekeeper a member under a number of its own"
    )]
    OtherDisk { id: TenantTimelineId, node: NodeId },
    #[error("cannot create timeline {id}: {error}")]
    Store { id: TenantTimelineId, error: StoreError },
    #[error("cannot create timeline {id}: the server is ending")]
    Ending { id: TenantTimelineId },
}

impl Timelines {
    /// Opens every timeline of the directory. Blocks while logs are recovered.
    pub(crate) fn open(data_dir: DataDir, pool: DiskPool) -> io::Result<Arc<Self>> {
        let found = scan(data_dir.path())?;
        let timelines = Arc::new(Self {
            data_dir,
            pool,
            known: RwLock::default(),
            next_key: AtomicU64::new(0),
            creating: Mutex::default(),
        });
        let (next, timelines_ref) = (AtomicUsize::new(0), &timelines);
        // Recovery reads the end of each log: several at once keep the disk busy.
        std::thread::scope(|scope| {
            for _ in 0..super::task::DISK_THREADS.min(found.len()) {
                scope.spawn(|| {
                    while let Some(id) = found.get(next.fetch_add(1, Ordering::Relaxed)) {
                        timelines_ref.open_one(*id);
                    }
                });
            }
        });
        Ok(timelines)
    }

    /// The timeline of this name, if it is served.
    pub(crate) fn get(&self, id: TenantTimelineId) -> Option<Arc<Timeline>> {
        match self.known.read().get(&id)? {
            Known::Served(timeline) => Some(Arc::clone(timeline)),
            Known::NotServed(_) => None,
        }
    }

    /// The timeline of this name, or why it is not served; nothing when it is not here.
    pub(crate) fn find(&self, id: TenantTimelineId) -> Option<Result<Arc<Timeline>, NotServed>> {
        self.known.read().get(&id).map(Known::served)
    }

    /// All that are served, and why the others are not.
    pub(crate) fn all(&self) -> Vec<(TenantTimelineId, Result<Arc<Timeline>, NotServed>)> {
        let known = self.known.read();
        known.iter().map(|(&id, known)| (id, known.served())).collect()
    }

    /// Who serves them.
    pub(crate) const fn identity(&self) -> Identity {
        self.data_dir.identity()
    }

    /// False when a disk thread has ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }

    /// Creates a timeline: durable when this returns.
    pub(crate) async fn create(self: &Arc<Self>, new: NewTimeline) -> Result<Created, CreateError> {
        let _one_at_a_time = self.creating.lock().await;
        let id = new.lineage.id;
        let identity = self.data_dir.identity();
        if new.disk.is_some_and(|disk| disk != identity.disk) {
            return Err(CreateError::OtherDisk { id, node: identity.node });
        }
        match self.find(id) {
            Some(Ok(timeline)) => return same(&timeline, &new).map(|()| Created::Before),
            Some(Err(why)) => return Err(CreateError::NotServed { id, why }),
            None => {}
        }
        let timelines = Arc::clone(self);
        // Not cut short by a client that goes away: a creation is whole or not there.
        let created = spawn_blocking(move || timelines.create_one(&new)).await;
        match created {
            Ok(result) => result.map(|()| Created::Now).map_err(|error| CreateError::Store { id, error }),
            Err(_) => Err(CreateError::Ending { id }),
        }
    }

    /// Lets the disk threads finish.
    pub(crate) fn stop(&self) {
        self.pool.stop();
    }

    fn create_one(self: &Arc<Self>, new: &NewTimeline) -> Result<(), StoreError> {
        let id = new.lineage.id;
        let identity = self.data_dir.identity();
        let directory = self.directory(id);
        let created = RealDisk::create(&directory, |disk| {
            Replica::create(
                disk,
                identity.node,
                identity.disk,
                new.lineage.clone(),
                new.configuration.clone(),
            )
        });
        if created.is_ok() {
            tracing::info!(timeline = %id, start_lsn = %new.lineage.start_lsn, "timeline created");
        }
        // One that got its name and was not durable yet when the disk failed is like one that is found at start.
        if directory.is_dir() {
            self.open_one(id);
        }
        created
    }

    fn open_one(self: &Arc<Self>, id: TenantTimelineId) {
        let key = TimelineKey(self.next_key.fetch_add(1, Ordering::Relaxed));
        let Err(NotOpened { why: last, is_unreadable }) = self.try_open(id, key, None, 0) else { return };
        if last.is_retried() {
            let unreadable_tries = is_unreadable.into();
            let timelines = Arc::downgrade(self);
            let mut reopening = Reopening { timelines, id, key, last, unreadable_tries };
            let retry = Order::Retry(Box::new(move || reopening.is_done()));
            if self.pool.thread_of(key).send(retry).is_err() {
                tracing::error!(timeline = %id, "timeline is not tried again: the disk thread has ended");
            }
        }
    }

    /// Opens a timeline, or finds out why not; either is known when this returns. `last` is what it was known as.
    fn try_open(
        &self,
        id: TenantTimelineId,
        key: TimelineKey,
        last: Option<&NotServed>,
        unreadable_tries: u32,
    ) -> Result<(), NotOpened> {
        match self.start(id, key, unreadable_tries) {
            Ok(timeline) => {
                let snapshot = timeline.snapshot();
                tracing::info!(timeline = %id, flush_lsn = %snapshot.flush_lsn, term = %snapshot.term, "timeline opened");
                self.know(id, Known::Served(timeline));
                Ok(())
            }
            Err(error) => {
                let why = NotServed::new(&error);
                if last != Some(&why) {
                    let tried_again = why.is_retried();
                    tracing::error!(timeline = %id, %error, tried_again, "timeline cannot be opened and is not served");
                    self.know(id, Known::NotServed(why.clone()));
                }
                Err(NotOpened {
                    why,
                    is_unreadable: matches!(error, OpenError::Store(StoreError::Unreadable { .. })),
                })
            }
        }
    }

    fn know(&self, id: TenantTimelineId, known: Known) {
        self.known.write().insert(id, known);
    }

    /// Opens the replica and gives it to its thread.
    fn start(
        &self,
        id: TenantTimelineId,
        key: TimelineKey,
        unreadable_tries: u32,
    ) -> Result<Arc<Timeline>, OpenError> {
        if !self.directory(id).try_exists()? {
            return Err(OpenError::DirectoryGone);
        }
        note_promises(&self.directory(id))?;
        let disk = RealDisk::open(&self.directory(id))?;
        let identity = self.data_dir.identity();
        let replica = Replica::open_after_read_errors(disk.clone(), identity.node, unreadable_tries)?;
        if replica.disk_id() != identity.disk {
            return Err(OpenError::OtherDisk);
        }
        let snapshots = replica.snapshot_cell();
        let readers = Arc::new(Readers::default());
        let (told, changed) = watch::channel(());
        let timeline = Timeline {
            id,
            key,
            disk,
            thread: self.pool.thread_of(key),
            snapshots,
            changed,
            readers: Arc::clone(&readers),
            proposers: AtomicUsize::new(0),
        };
        let owned = Box::new(Owned { id, replica, readers, changed: told });
        timeline.order(Order::Own { key, timeline: owned }).map_err(|_| OpenError::ThreadEnded)?;
        Ok(Arc::new(timeline))
    }

    fn directory(&self, id: TenantTimelineId) -> PathBuf {
        self.data_dir.path().join(id.tenant.to_string()).join(id.timeline.to_string())
    }
}

impl Known {
    fn served(&self) -> Result<Arc<Timeline>, NotServed> {
        match self {
            Self::Served(timeline) => Ok(Arc::clone(timeline)),
            Self::NotServed(why) => Err(why.clone()),
        }
    }
}

impl Reopening {
    /// Tries once. True when there is nothing left to try.
    fn is_done(&mut self) -> bool {
        let Some(timelines) = self.timelines.upgrade() else { return true };
        match timelines.try_open(self.id, self.key, Some(&self.last), self.unreadable_tries) {
            Ok(()) => true,
            Err(NotOpened { why, is_unreadable }) => {
                self.unreadable_tries =
                    if is_unreadable { self.unreadable_tries.saturating_add(1) } else { 0 };
                self.last = why;
                !self.last.is_retried()
            }
        }
    }
}

/// The difference that forbids to call `new` the same as what is there.
fn same(timeline: &Timeline, new: &NewTimeline) -> Result<(), CreateError> {
    let snapshot = timeline.snapshot();
    let (old, new_lineage) = (&snapshot.lineage, &new.lineage);
    // A proposer may have told the cluster and a newer minor version since.
    let known_since = |old: u64, new: u64| old == new || new == 0;
    let table = [
        ("dialect", old.dialect == new_lineage.dialect),
        ("start_lsn", old.start_lsn == new_lineage.start_lsn),
        ("wal_segment_size", old.segment_size == new_lineage.segment_size),
        ("system_id", known_since(old.system_id.0, new_lineage.system_id.0)),
        ("pg_version", known_since(old.pg_major().into(), new_lineage.pg_major().into())),
        ("timeline number", old.start_tli == new_lineage.start_tli),
        (
            "list of members",
            // A leader may have changed it since.
            snapshot.configuration_term > Term::ZERO
                || snapshot.configuration.generation != new.configuration.generation
                || snapshot.configuration.members == new.configuration.members,
        ),
    ];
    match table.into_iter().find(|(_, equal)| !equal) {
        Some((field, _)) => Err(CreateError::Different { id: timeline.id, field }),
        None => Ok(()),
    }
}

/// Every `<tenant>/<timeline>`, and every one that was there; what has another name is not a timeline.
fn scan(path: &Path) -> io::Result<Vec<TenantTimelineId>> {
    let mut found = BTreeSet::new();
    for tenant in names(path)? {
        let Ok(tenant_id) = tenant.parse::<TenantId>() else { continue };
        if !path.join(&tenant).is_dir() {
            continue;
        }
        for name in names(&path.join(&tenant))? {
            if let Ok(timeline) = name.strip_suffix(PROMISED_SUFFIX).unwrap_or(&name).parse::<TimelineId>() {
                found.insert(TenantTimelineId { tenant: tenant_id, timeline });
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Durably notes beside a timeline's directory that it is about to be served.
fn note_promises(directory: &Path) -> io::Result<()> {
    let mut note = directory.as_os_str().to_owned();
    note.push(PROMISED_SUFFIX);
    if Path::new(&note).try_exists()? {
        return Ok(());
    }
    File::create(&note)?.sync_all()?;
    let parent = directory.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(parent)?.sync_all()
}
