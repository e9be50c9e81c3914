//! [`DiskPool`]: the disk threads of the process. Each timeline belongs to one of them, by its key.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use super::disk_thread::{DiskCommand, DiskThread, TimelineKey};
use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;
use crate::retention::Retention;

/// Disk threads. More would let more timelines flush at the same time, but a disk has few queues.
pub(super) const DISK_THREADS: usize = 4;

/// The disk threads, and the sender of each one's commands.
#[derive(Debug)]
pub(crate) struct DiskPool {
    commands: Vec<Sender<DiskCommand>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl DiskPool {
    /// Starts the threads, which have no timelines yet.
    pub(crate) fn start(metrics: &Metrics, lock: &DataDirLock, retention: Retention) -> io::Result<Self> {
        let mut pool = Self { commands: Vec::new(), threads: Mutex::default() };
        let threads = pool.threads.get_mut();
        for number in 0..DISK_THREADS {
            let (commands, inbox) = channel();
            let thread = DiskThread::new(inbox, retention, metrics.clone(), lock.clone());
            threads.push(Builder::new().name(format!("disk-{number}")).spawn(move || thread.run())?);
            pool.commands.push(commands);
        }
        Ok(pool)
    }

    /// The command sender of the thread that a timeline belongs to.
    pub(super) fn thread_of(&self, key: TimelineKey) -> Sender<DiskCommand> {
        let index = key.0 as usize % self.commands.len();
        self.commands[index].clone()
    }

    /// False when a thread has ended: its timelines are no longer served.
    pub(crate) fn is_alive(&self) -> bool {
        !self.threads.lock().iter().any(JoinHandle::is_finished)
    }

    /// Lets every thread finish the commands that it has, and waits until all threads have ended. Blocks.
    pub(crate) fn stop(&self) {
        for commands in &self.commands {
            // A thread that has ended has nothing left to finish.
            let _ = commands.send(DiskCommand::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("disk thread panicked");
            }
        }
    }
}
