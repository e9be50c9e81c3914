//! [`ShardPool`]: the shards of the process. Each timeline belongs to one of them, by its key.

use std::io;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::unconstrained;

use super::command::{ShardCommand, ShardSender, TimelineKey};
use super::task::Shard;
use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;
use crate::retention::Retention;

/// Shards. More would let more timelines flush at the same time, but a disk has few queues.
pub(crate) const SHARDS: usize = 4;

/// Polls of tasks after which the runtime looks for events, although there is more to poll. With 1 it would look after
/// each, which costs every small append a system call.
const EVENT_INTERVAL: u32 = 2;

/// The shards, and the sender of each one's commands.
#[derive(Debug)]
pub(crate) struct ShardPool {
    shards: Vec<ShardSender>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ShardPool {
    /// Starts the shards, which have no timelines yet.
    pub(crate) fn start(metrics: &Metrics, lock: &DataDirLock, retention: Retention) -> io::Result<Self> {
        let mut pool = Self { shards: Vec::new(), threads: Mutex::default() };
        let threads = pool.threads.get_mut();
        for number in 0..SHARDS {
            let (commands, inbox) = unbounded_channel();
            let (metrics, lock) = (metrics.clone(), lock.clone());
            let runtime = runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .event_interval(EVENT_INTERVAL)
                .build()?;
            let work = move || {
                // A spawned task: the runtime would wake its main future with a system call each time. It has no budget,
                // because a turn has its own limits, and a socket that only seems full would be left to the next turn.
                let task = runtime.spawn(unconstrained(async move {
                    Shard::new(inbox, retention, metrics, lock).run().await;
                }));
                if let Err(ended) = runtime.block_on(task)
                    && ended.is_panic()
                {
                    std::panic::resume_unwind(ended.into_panic());
                }
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

    /// False when a shard has ended: its timelines are no longer served.
    pub(crate) fn is_alive(&self) -> bool {
        !self.threads.lock().iter().any(JoinHandle::is_finished)
    }

    /// Lets every shard finish the commands that it has, and waits until all have ended. Blocks.
    pub(crate) fn stop(&self) {
        for shard in &self.shards {
            // A shard that has ended has nothing left to finish.
            let _ = shard.send(ShardCommand::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("shard panicked");
            }
        }
    }
}
