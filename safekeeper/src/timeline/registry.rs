//! [`Timelines`]: all timelines of this safekeeper: found at start, created over HTTP, looked up by connections.
//!
//! One that cannot be opened is quarantined: it is listed with the reason and neither votes nor serves; the others are
//! served. Its directory is left as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::{fs, io};

use consensus::{Configuration, Lineage};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use wal_store::{RealDisk, Replica, StoreError};
use wal_types::{TenantId, TenantTimelineId, TimelineId};

use super::Timeline;
use super::task::{DiskPool, Order, Owned, TimelineKey};
use crate::data_dir::DataDir;
use crate::feedback::Readers;

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
    Quarantined(Arc<str>),
}

/// What is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTimeline {
    pub(crate) lineage: Lineage,
    pub(crate) configuration: Configuration,
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
    #[error("timeline {id} exists and cannot be opened: {reason}")]
    Quarantined { id: TenantTimelineId, reason: Arc<str> },
    #[error("cannot create timeline {id}: {error}")]
    Store { id: TenantTimelineId, error: StoreError },
    #[error("cannot create timeline {id}: the server is ending")]
    Ending { id: TenantTimelineId },
}

impl Timelines {
    /// Opens every timeline of the directory. Blocks while logs are recovered.
    pub(crate) fn open(data_dir: DataDir, pool: DiskPool) -> io::Result<Self> {
        let found = scan(data_dir.path())?;
        let timelines = Self {
            data_dir,
            pool,
            known: RwLock::default(),
            next_key: AtomicU64::new(0),
            creating: Mutex::default(),
        };
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
        match self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id)? {
            Known::Served(timeline) => Some(Arc::clone(timeline)),
            Known::Quarantined(_) => None,
        }
    }

    /// Why the timeline of this name is not served, if it is here at all.
    pub(crate) fn quarantined(&self, id: TenantTimelineId) -> Option<Arc<str>> {
        match self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id)? {
            Known::Served(_) => None,
            Known::Quarantined(reason) => Some(Arc::clone(reason)),
        }
    }

    /// All that are served, and why the others are not.
    pub(crate) fn all(&self) -> Vec<(TenantTimelineId, Result<Arc<Timeline>, Arc<str>>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(&id, known)| match known {
                Known::Served(timeline) => (id, Ok(Arc::clone(timeline))),
                Known::Quarantined(reason) => (id, Err(Arc::clone(reason))),
            })
            .collect()
    }

    /// False when a disk thread has ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }

    /// Creates a timeline: durable when this returns.
    pub(crate) async fn create(self: &Arc<Self>, new: NewTimeline) -> Result<Created, CreateError> {
        let _one_at_a_time = self.creating.lock().await;
        let id = new.lineage.id;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        match known {
            Some(Known::Served(timeline)) => return same(&timeline, &new).map(|()| Created::Before),
            Some(Known::Quarantined(reason)) => return Err(CreateError::Quarantined { id, reason }),
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

    fn create_one(&self, new: &NewTimeline) -> Result<(), StoreError> {
        let id = new.lineage.id;
        let identity = self.data_dir.identity();
        RealDisk::create(&self.directory(id), |disk| {
            Replica::create(
                disk,
                identity.node,
                identity.disk,
                new.lineage.clone(),
                new.configuration.clone(),
            )
        })?;
        tracing::info!(timeline = %id, start_lsn = %new.lineage.start_lsn, "timeline created");
        let timeline = self.start(id)?;
        self.know(id, Known::Served(timeline));
        Ok(())
    }

    fn open_one(&self, id: TenantTimelineId) {
        let known = match self.start(id) {
            Ok(timeline) => {
                let snapshot = timeline.snapshot();
                tracing::info!(timeline = %id, flush_lsn = %snapshot.flush_lsn, term = %snapshot.term, "timeline opened");
                Known::Served(timeline)
            }
            Err(error) => {
                tracing::error!(timeline = %id, %error, "timeline cannot be opened and is quarantined");
                Known::Quarantined(error.to_string().into())
            }
        };
        self.know(id, known);
    }

    fn know(&self, id: TenantTimelineId, known: Known) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
    }

    /// Opens the replica and gives it to its thread.
    fn start(&self, id: TenantTimelineId) -> Result<Arc<Timeline>, StoreError> {
        let disk = RealDisk::open(&self.directory(id))?;
        let identity = self.data_dir.identity();
        let replica = Replica::open(disk, identity.node)?;
        if replica.disk_id() != identity.disk {
            return Err(StoreError::Invalid(
                "this timeline was copied here from another data directory; what that one promised since is unknown",
            ));
        }
        let snapshots = replica.snapshots();
        let (told, changed) = watch::channel(());
        let key = TimelineKey(self.next_key.fetch_add(1, Ordering::Relaxed));
        let timeline = Timeline {
            id,
            key,
            thread: self.pool.thread_of(key),
            snapshots,
            changed,
            readers: Arc::new(Readers::default()),
            proposers: AtomicUsize::new(0),
        };
        let owned = Box::new(Owned { id, replica, changed: told });
        timeline
            .order(Order::Own { key, timeline: owned })
            .map_err(|_| StoreError::Invalid("the disk thread has ended"))?;
        Ok(Arc::new(timeline))
    }

    fn directory(&self, id: TenantTimelineId) -> PathBuf {
        self.data_dir.path().join(id.tenant.to_string()).join(id.timeline.to_string())
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
            snapshot.configuration.generation != new.configuration.generation
                || snapshot.configuration.members == new.configuration.members,
        ),
    ];
    match table.into_iter().find(|(_, equal)| !equal) {
        Some((field, _)) => Err(CreateError::Different { id: timeline.id, field }),
        None => Ok(()),
    }
}

/// Every `<tenant>/<timeline>`; what has another name is not a timeline.
fn scan(path: &Path) -> io::Result<Vec<TenantTimelineId>> {
    let mut found = Vec::new();
    for tenant in names(path)? {
        let Ok(tenant_id) = tenant.parse::<TenantId>() else { continue };
        for timeline in names(&path.join(&tenant))? {
            if let Ok(timeline) = timeline.parse::<TimelineId>() {
                found.push(TenantTimelineId { tenant: tenant_id, timeline });
            }
        }
    }
    Ok(found)
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}
