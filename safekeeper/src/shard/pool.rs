//! [`ShardPool`]: the shards of the process. Each timeline belongs to one of them, by its key.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{JoinError, unconstrained};
use wal_store::Retention;

use super::command::{ShardCommand, ShardSender, TimelineKey};
use super::task::Shard;
use super::workers::Workers;
use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;

/// Shards. More would let more timelines flush at the same time, but a disk has few queues.
const SHARDS: usize = 4;

/// Polls of tasks after which the runtime looks for events, although there is more to poll. With 1 it would look after
/// each, which costs every small append a system call.
const EVENT_INTERVAL: u32 = 2;

/// The shards, and the sender of each one's commands.
#[derive(Debug)]
pub(crate) struct ShardPool {
    shards: Vec<ShardSender>,
    /// Notified when a shard or a worker panics.
    panicked: Arc<Notify>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped at the stop, so that the threads end.
    workers: Mutex<Option<Workers>>,
    worker_threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ShardPool {
    /// Starts the shards, which have no timelines yet.
    pub(crate) fn start(metrics: &Metrics, lock: &DataDirLock, retention: Retention) -> io::Result<Self> {
        let panicked = Arc::default();
        let (workers, worker_threads) = Workers::start(lock, &panicked)?;
        let mut pool = Self {
            shards: Vec::new(),
            panicked: Arc::clone(&panicked),
            threads: Mutex::default(),
            workers: Mutex::new(Some(workers.clone())),
            worker_threads: Mutex::new(worker_threads),
        };
        let threads = pool.threads.get_mut();
        for number in 0..SHARDS {
            let (commands, inbox) = unbounded_channel();
            let (metrics, lock, workers) = (metrics.clone(), lock.clone(), workers.clone());
            let panicked = Arc::clone(&panicked);
            let own = commands.downgrade();
            let runtime = runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .event_interval(EVENT_INTERVAL)
                .build()?;
            let work = move || {
                // A spawned task: the runtime would wake its main future with a system call each time. It has no budget,
                // because a turn has its own limits, and a socket that only seems full would be left to the next turn.
                let task = runtime.spawn(unconstrained(async move {
                    Shard::new(inbox, own, workers, retention, metrics, lock).run().await;
                }));
                announce_panic(runtime.block_on(task), &panicked);
            };
            threads.push(Builder::new().name(format!("shard-{number}")).spawn(work)?);
            pool.shards.push(ShardSender(commands));
        }
        Ok(pool)
    }

    /// The shard that a timeline belongs to.
    pub(crate) fn shard_of(&self, key: TimelineKey) -> ShardSender {
        let index = key.0 as usize % self.shards.len();
        self.shards[index].clone()
    }

    /// Completes when a shard or a worker has panicked: timelines are served no more.
    pub(crate) fn ended_early(&self) -> impl Future<Output = ()> + use<> {
        let panicked = Arc::clone(&self.panicked);
        async move { panicked.notified().await }
    }

    /// False when a shard or a worker has ended: timelines are no longer served.
    pub(crate) fn is_alive(&self) -> bool {
        let has_ended =
            |threads: &Mutex<Vec<JoinHandle<()>>>| threads.lock().iter().any(JoinHandle::is_finished);
        !has_ended(&self.threads) && !has_ended(&self.worker_threads)
    }

    /// Lets every shard finish the commands that it has, and waits until all have ended. Blocks.
    pub(crate) fn stop(&self) {
        for shard in &self.shards {
            // A shard that has ended has nothing left to finish.
            let _ = shard.send(ShardCommand::Stop);
        }
        let workers = self.workers.lock().take();
        workers.inspect(Workers::stop);
        let shards = std::mem::take(&mut *self.threads.lock());
        let workers = std::mem::take(&mut *self.worker_threads.lock());
        for thread in shards.into_iter().chain(workers) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "shard or worker panicked");
            }
        }
    }
}

/// Tells the server that a shard panicked, and lets its thread end by the same panic.
fn announce_panic(ended: Result<(), JoinError>, panicked: &Notify) {
    if let Err(ended) = ended
        && ended.is_panic()
    {
        // Kept for a server that begins to wait later.
        panicked.notify_one();
        std::panic::resume_unwind(ended.into_panic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn announce_panic_wakes_the_server_also_later() {
        let panicked = Arc::new(Notify::new());
        let failed = tokio::spawn(async { panic!("a defect in a shard") }).await;
        let thread = std::thread::spawn({
            let panicked = Arc::clone(&panicked);
            move || announce_panic(failed, &panicked)
        });
        assert!(thread.join().is_err(), "the thread ends by the panic");
        tokio::time::timeout(std::time::Duration::from_secs(30), panicked.notified()).await.unwrap();
    }
}
