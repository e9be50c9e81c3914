//! [`Workers`]: the threads that do what may take long for the timelines of all shards: blank segments, recoveries.
//!
//! Segments have a thread of their own. One is enough: the disk is the limit, and two would only share it. Recoveries have
//! several, because one on a failing disk may hang for minutes. Called by the shards; results go back as commands.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::mpsc::WeakUnboundedSender;
use wal_store::{RealDisk, Work};

use super::command::{ShardCommand, TimelineKey};
use crate::data_dir::DataDirLock;

/// Threads that recover failed logs while the safekeeper runs.
const RECOVERY_THREADS: usize = 4;

/// One piece of work, and where its result goes.
struct Job {
    key: TimelineKey,
    work: Work<RealDisk>,
    shard: WeakUnboundedSender<ShardCommand>,
}

/// The sending end of the threads. Clones share them; the threads end when the last one is dropped. At most one job for
/// each timeline waits.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    segments: Sender<Job>,
    recoveries: Sender<Job>,
    is_stopping: Arc<AtomicBool>,
}

impl Workers {
    /// Starts the threads.
    pub(super) fn start(lock: &DataDirLock) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let ((segments, segment_jobs), (recoveries, recovery_jobs)) = (channel(), channel());
        let workers = Self { segments, recoveries, is_stopping: Arc::default() };
        let recovery_jobs = Arc::new(Mutex::new(recovery_jobs));
        let mut threads = vec![workers.spawn("segments", Arc::new(Mutex::new(segment_jobs)), lock)?];
        for number in 0..RECOVERY_THREADS {
            threads.push(workers.spawn(&format!("recovery-{number}"), Arc::clone(&recovery_jobs), lock)?);
        }
        Ok((workers, threads))
    }

    /// Lets a thread do the work, and send the result to `shard`.
    pub(super) fn send(
        &self,
        key: TimelineKey,
        work: Work<RealDisk>,
        shard: WeakUnboundedSender<ShardCommand>,
    ) {
        let jobs = if work.is_recovery() { &self.recoveries } else { &self.segments };
        // The threads end later than the shards.
        let _ = jobs.send(Job { key, work, shard });
    }

    /// Drops the jobs that wait. A segment that is not written, and a recovery that is not done, are done after the next
    /// start.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn spawn(
        &self,
        name: &str,
        jobs: Arc<Mutex<Receiver<Job>>>,
        lock: &DataDirLock,
    ) -> io::Result<JoinHandle<()>> {
        // Keeps other processes out of the directory while a job may write.
        let (is_stopping, lock) = (Arc::clone(&self.is_stopping), lock.clone());
        Builder::new().name(name.to_owned()).spawn(move || {
            let _lock = lock;
            loop {
                let next = jobs.lock().recv();
                let Ok(Job { key, work, shard }) = next else { return };
                if !is_stopping.load(Ordering::Relaxed) {
                    let done = Box::new(work.run());
                    // A shard that has ended needs no result.
                    if let Some(shard) = shard.upgrade() {
                        let _ = shard.send(ShardCommand::WorkDone { key, done });
                    }
                }
            }
        })
    }
}
