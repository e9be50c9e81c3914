//! [`Threads`]: the threads that serve connections, with a runtime each, and the choice of one for a new connection.
//!
//! A connection stays on its thread from its first byte to its last, so that no core waits for another one while bytes
//! pass. It goes to the thread that has the fewest; among equals to the one that accepts, which saves waking another.
//! All else runs on the runtime of `main`: HTTP, lookups at the control plane, background tasks. Calls that block run on
//! blocking threads. Used by `server` and `accept`.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::observe::thread_metrics::{ThreadMetrics, ThreadState};

/// Blocking threads of all runtimes together, at most: they resolve names and hash passwords.
const BLOCKING_THREADS_MAX: usize = 512;
/// Blocking threads of one runtime that it may have in any case.
const BLOCKING_THREADS_MIN: usize = 16;
/// Longest time for the tasks of a thread to be cancelled. A call into the operating system that does not return is not
/// waited for any longer.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(300);

/// The threads. They end with [`Threads::end`], or when this value is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    all: Arc<[Arc<ThreadState>]>,
    end: watch::Sender<()>,
    /// Closed when the last thread has ended.
    ended: mpsc::Receiver<()>,
}

/// A thread that accepts connections, for itself and for the others.
#[derive(Clone, Debug)]
pub(crate) struct AcceptingThread {
    all: Arc<[Arc<ThreadState>]>,
    number: usize,
}

/// A connection's place on a thread. The thread counts it until this value is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    thread: Arc<ThreadState>,
    is_here: bool,
}

impl Threads {
    /// Starts `count` threads; `None` is one for each core.
    pub(crate) fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        let count = count.map_or_else(thread::available_parallelism, Ok)?.get();
        let blocking = (BLOCKING_THREADS_MAX / count).max(BLOCKING_THREADS_MIN);
        let (end, _) = watch::channel(());
        let (running, ended) = mpsc::channel(1);
        let start = |number| {
            let runtime =
                Builder::new_current_thread().enable_all().max_blocking_threads(blocking).build()?;
            let state = ThreadState { runtime: runtime.handle().clone(), connections: AtomicUsize::new(0) };
            let (end, running) = (end.subscribe(), running.clone());
            let body = move || {
                serve_until(&runtime, end);
                runtime.shutdown_timeout(TASKS_END_TIMEOUT);
                drop(running);
            };
            thread::Builder::new().name(format!("sessions-{number}")).spawn(body)?;
            Ok(Arc::new(state))
        };
        let all = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { all, end, ended })
    }

    /// The thread that accepts the connections of a listener. Several listeners are spread over the threads.
    pub(crate) fn for_listener(&self, listener: usize) -> AcceptingThread {
        AcceptingThread { all: Arc::clone(&self.all), number: listener % self.all.len() }
    }

    pub(crate) fn metrics(&self) -> ThreadMetrics {
        ThreadMetrics(Arc::clone(&self.all))
    }

    /// Cancels all tasks of the threads, and waits for that.
    pub(crate) async fn end(self) {
        let Self { end, mut ended, .. } = self;
        drop(end);
        // A thread whose task never pauses is not waited for any longer.
        let _ = timeout(2 * TASKS_END_TIMEOUT, ended.recv()).await;
    }
}

/// Runs the tasks that are spawned on the runtime, until the other side of `end` is dropped.
fn serve_until(runtime: &Runtime, mut end: watch::Receiver<()>) {
    runtime.block_on(async move { while end.changed().await.is_ok() {} });
}

impl AcceptingThread {
    /// The runtime of the thread itself.
    pub(crate) fn runtime(&self) -> Handle {
        self.all[self.number].runtime.clone()
    }

    /// Chooses the thread of a new connection, and counts the connection there.
    pub(crate) fn seat(&self) -> Seat {
        let (others, rest) = self.all.split_at(self.number);
        // Of equals the first one is taken, and that is the thread itself.
        let near = rest.iter().chain(others);
        let chosen = near.min_by_key(|thread| thread.connections.load(Ordering::Relaxed));
        let here = &self.all[self.number];
        let thread = Arc::clone(chosen.unwrap_or(here));
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Seat { is_here: Arc::ptr_eq(&thread, here), thread }
    }
}

impl Seat {
    /// The runtime that serves the connection.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.thread.runtime
    }

    /// Whether the thread is the one that accepted the connection.
    pub(crate) const fn is_here(&self) -> bool {
        self.is_here
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.thread.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(count: usize) -> Threads {
        Threads::start(NonZeroUsize::new(count)).unwrap()
    }

    fn loads(threads: &Threads) -> Vec<usize> {
        threads.all.iter().map(|thread| thread.connections.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn seat_takes_the_thread_with_fewest_connections() {
        let threads = threads(3);
        let accepting = threads.for_listener(4);
        let alone = accepting.seat();
        assert_eq!(loads(&threads), [0, 1, 0]);
        drop(alone);

        let mut seats: Vec<_> = (0..10).map(|_| accepting.seat()).collect();
        assert_eq!(loads(&threads), [3, 4, 3]);
        seats.retain(|seat| !Arc::ptr_eq(&seat.thread, &threads.all[2]));
        assert_eq!(loads(&threads), [3, 4, 0]);
        seats.extend((0..3).map(|_| accepting.seat()));
        assert_eq!(loads(&threads), [3, 4, 3]);
    }

    #[tokio::test]
    async fn threads_end_cancels_their_tasks() {
        let threads = threads(2);
        let alive = Arc::new(());
        for thread in threads.all.iter() {
            let held = Arc::clone(&alive);
            thread.runtime.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        threads.end().await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
