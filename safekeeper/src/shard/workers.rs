//! [`Workers`]: the threads that do what may take long for the timelines of all shards: blank segments, recoveries.
//!
//! Segments have a thread of their own. One is enough: the disk is the limit, and two would only share it. Recoveries have
//! several, because one on a failing disk may hang for minutes. Called by the shards; results go back as commands.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc::WeakUnboundedSender;
use wal_store::{RealDisk, Work, WorkDone};

use super::command::{ShardCommand, TimelineKey};
use crate::data_dir::DataDirLock;

/// Threads that recover failed logs while the safekeeper runs.
const RECOVERY_THREADS: usize = 4;

/// One piece of work, and where its result goes.
struct Job {
    key: TimelineKey,
    run: Box<dyn FnOnce() -> WorkDone<RealDisk> + Send>,
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
    /// Starts the threads. `panicked` is notified when one of them panics: its timeline would wait for the result for ever.
    pub(super) fn start(
        lock: &DataDirLock,
        panicked: &Arc<Notify>,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let ((segments, segment_jobs), (recoveries, recovery_jobs)) = (channel(), channel());
        let workers = Self { segments, recoveries, is_stopping: Arc::default() };
        let recovery_jobs = Arc::new(Mutex::new(recovery_jobs));
        let segment_jobs = Arc::new(Mutex::new(segment_jobs));
        let mut threads = vec![workers.spawn("segments", segment_jobs, lock, panicked)?];
        for number in 0..RECOVERY_THREADS {
            let name = format!("recovery-{number}");
            threads.push(workers.spawn(&name, Arc::clone(&recovery_jobs), lock, panicked)?);
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
        let _ = jobs.send(Job { key, run: Box::new(|| work.run()), shard });
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
        panicked: &Arc<Notify>,
    ) -> io::Result<JoinHandle<()>> {
        // Keeps other processes out of the directory while a job may write.
        let (is_stopping, lock, panicked) =
            (Arc::clone(&self.is_stopping), lock.clone(), Arc::clone(panicked));
        Builder::new().name(name.to_owned()).spawn(move || {
            let _lock = lock;
            or_announce_panic(&panicked, || do_jobs(&jobs, &is_stopping));
        })
    }
}

/// Does the jobs, one after the other, until no sender is left.
fn do_jobs(jobs: &Mutex<Receiver<Job>>, is_stopping: &AtomicBool) {
    loop {
        let next = jobs.lock().recv();
        let Ok(Job { key, run, shard }) = next else { return };
        if !is_stopping.load(Ordering::Relaxed) {
            let done = Box::new(run());
            // A shard that has ended needs no result.
            if let Some(shard) = shard.upgrade() {
                let _ = shard.send(ShardCommand::WorkDone { key, done });
            }
        }
    }
}

/// Tells the server of a panic, and lets the thread end by it.
fn or_announce_panic(panicked: &Notify, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        // Kept for a server that begins to wait later.
        panicked.notify_one();
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::timeout;
    use wal_types::NodeId;

    use crate::data_dir::DataDir;

    /// The result of the job never comes, so its timeline would wait for ever: the server must end.
    #[tokio::test]
    async fn panic_in_worker_is_announced_to_server() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(directory.path(), NodeId(1)).unwrap();
        let (commands, _inbox) = unbounded_channel();
        for is_recovery in [false, true] {
            let panicked = Arc::default();
            let (workers, _threads) = Workers::start(&data_dir.lock(), &panicked).unwrap();
            let jobs = if is_recovery { &workers.recoveries } else { &workers.segments };
            let run = Box::new(|| panic!("a defect in the work"));
            let _ = jobs.send(Job { key: TimelineKey(0), run, shard: commands.downgrade() });
            timeout(Duration::from_secs(30), panicked.notified()).await.unwrap();
        }
    }
}
