//! [`Shutdown`]: ends a server in two stages, and waits for its tasks.
//!
//! | signal | effect |
//! |---|---|
//! | first SIGTERM | *drain*: no new work is accepted, work under way may finish |
//! | second SIGTERM, SIGINT, SIGQUIT | *immediate*: return from `main` at once |
//! | SIGHUP | reload: every [`Reloads`] wakes |
//!
//! This module closes no socket and ends no process. The server closes its listeners when
//! [`draining`](Shutdown::draining) returns, its sessions watch [`immediate`](Shutdown::immediate), and `main`
//! returns and flushes its telemetry. Called by `main` and `server` of every program.

mod stage;

use std::io;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub use self::stage::{Signal, Stage};

/// Result of [`Shutdown::drained`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every tracked task has ended.
    Complete,
    /// The deadline passed with this many tasks still running.
    TimedOut {
        /// Tasks that had not ended.
        tasks_left: usize,
    },
    /// The stage became immediate with this many tasks still running.
    Interrupted {
        /// Tasks that had not ended.
        tasks_left: usize,
    },
}

/// The shutdown of one process. Clones share the stage and the tasks.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stage: watch::Sender<Stage>,
    reloads: watch::Sender<u64>,
    tasks: TaskTracker,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown that no signal of the operating system reaches, for tests and for a server inside another program.
    /// Only [`signal`](Self::signal) moves its stage.
    pub fn new() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Running),
            reloads: watch::Sender::new(0),
            tasks: TaskTracker::new(),
        }
    }

    /// A shutdown that the signals of this process drive. Needs a tokio runtime; an error is that of installing a
    /// handler. The handlers are in place when this returns: call it before the process announces that it is up.
    pub fn on_process_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let shutdown = Self::new();
        let target = shutdown.clone();
        tokio::spawn(async move {
            loop {
                // Cancel safe: a signal that arrives between two receives is kept by its stream.
                let signal = tokio::select! {
                    Some(()) = terminate.recv() => Signal::Terminate,
                    Some(()) = interrupt.recv() => Signal::Interrupt,
                    Some(()) = quit.recv() => Signal::Quit,
                    Some(()) = hangup.recv() => Signal::Hangup,
                    else => return,
                };
                target.signal(signal);
            }
        });
        Ok(shutdown)
    }

    /// Applies one signal. A server that must stop for a reason of its own calls this too.
    pub fn signal(&self, signal: Signal) {
        if signal == Signal::Hangup {
            tracing::info!(?signal, "reload requested");
            self.reloads.send_modify(|count| *count = count.wrapping_add(1));
            return;
        }
        let moved = self.stage.send_if_modified(|stage| {
            let after = stage.after(signal);
            std::mem::replace(stage, after) != after
        });
        if moved {
            tracing::info!(?signal, stage = ?self.stage(), "shutting down");
        }
    }

    /// The current stage.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// True from the first signal to end on, also when the stage is immediate.
    pub fn is_draining(&self) -> bool {
        self.stage() >= Stage::Draining
    }

    /// True once the process must end without waiting.
    pub fn is_immediate(&self) -> bool {
        self.stage() >= Stage::Immediate
    }

    /// Returns when [`is_draining`](Self::is_draining) is true. Cancel safe, and owned so that it can be passed on.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Stage::Draining)
    }

    /// Returns when [`is_immediate`](Self::is_immediate) is true. Cancel safe, and owned so that it can be passed on.
    pub fn immediate(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Stage::Immediate)
    }

    /// A receiver of the reload requests that come from now on.
    pub fn reloads(&self) -> Reloads {
        Reloads { count: self.reloads.subscribe(), _source: self.reloads.clone() }
    }

    /// Runs `task` on the current runtime, and makes [`drained`](Self::drained) wait for it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// As [`spawn`](Self::spawn), on another runtime.
    pub fn spawn_on<F>(&self, task: F, runtime: &Handle) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn_on(task, runtime)
    }

    /// Tasks of [`spawn`](Self::spawn) that have not ended.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until every task of [`spawn`](Self::spawn) has ended, but no longer than `deadline` and not past
    /// [`immediate`](Self::immediate). A task spawned during the wait is waited for as well. Nothing is aborted:
    /// tasks that are left end with the runtime.
    pub async fn drained(&self, deadline: Duration) -> Drained {
        self.tasks.close();
        tokio::select! {
            // In this order: without a task left, neither a signal nor the clock makes the drain incomplete.
            biased;
            () = self.tasks.wait() => Drained::Complete,
            () = self.immediate() => Drained::Interrupted { tasks_left: self.tasks.len() },
            () = tokio::time::sleep(deadline) => Drained::TimedOut { tasks_left: self.tasks.len() },
        }
    }

    fn reached(&self, wanted: Stage) -> impl Future<Output = ()> + Send + 'static {
        // The clone of the sender keeps the channel open while the future waits.
        let (source, mut stage) = (self.stage.clone(), self.stage.subscribe());
        async move {
            let _ = stage.wait_for(|stage| *stage >= wanted).await;
            drop(source);
        }
    }
}

/// Receiver of reload requests: wakes on SIGHUP. Signals that arrive during a reload count as one more reload.
#[derive(Debug)]
pub struct Reloads {
    count: watch::Receiver<u64>,
    /// Keeps the channel open.
    _source: watch::Sender<u64>,
}

impl Reloads {
    /// Waits for a reload request that came after the last return. Cancel safe.
    pub async fn next(&mut self) {
        if self.count.changed().await.is_err() {
            // The sender lives in `self`, so the channel never closes. If it did, no reload could follow.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Signal::{Hangup, Interrupt, Terminate};
    use std::task::{Context, Waker};
    use tokio::sync::oneshot;

    const LONG: Duration = Duration::from_secs(3600);

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn waiters_wake_at_their_stage() {
        let shutdown = Shutdown::new();
        assert!(!is_ready(shutdown.draining()) && !is_ready(shutdown.immediate()));
        shutdown.signal(Terminate);
        assert!(shutdown.is_draining() && !shutdown.is_immediate());
        assert!(is_ready(shutdown.draining()) && !is_ready(shutdown.immediate()));
        shutdown.clone().signal(Terminate);
        assert!(shutdown.is_draining() && shutdown.is_immediate());
        assert!(is_ready(shutdown.draining()) && is_ready(shutdown.immediate()));
    }

    #[tokio::test]
    async fn interrupt_wakes_drain_waiters() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn(shutdown.draining());
        shutdown.signal(Interrupt);
        waiting.await.unwrap();
    }

    #[test]
    fn waits_survive_dropped_handles() {
        let shutdown = Shutdown::new();
        let (waiting, mut reloads) = (shutdown.draining(), shutdown.reloads());
        drop(shutdown);
        assert!(!is_ready(waiting));
        assert!(!is_ready(reloads.next()));
    }

    /// A reload does not move the stage.
    #[test]
    fn reload_wakes_each_listener_once() {
        let shutdown = Shutdown::new();
        let (mut one, mut two) = (shutdown.reloads(), shutdown.reloads());
        assert!(!is_ready(one.next()));
        shutdown.signal(Hangup);
        shutdown.signal(Hangup);
        assert!(is_ready(one.next()) && is_ready(two.next()));
        assert!(!is_ready(one.next()) && !is_ready(shutdown.reloads().next()));
        assert!(!shutdown.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn drained_waits_for_tasks_spawned_meanwhile() {
        let shutdown = Shutdown::new();
        let (finish, finished) = oneshot::channel::<()>();
        let handle = shutdown.clone();
        shutdown.spawn(async move {
            finished.await.unwrap();
            handle.spawn(tokio::time::sleep(Duration::from_secs(5)));
        });
        let draining = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.drained(LONG).await }
        });
        tokio::task::yield_now().await;
        assert!(!draining.is_finished());
        let before = tokio::time::Instant::now();
        finish.send(()).unwrap();
        assert_eq!(draining.await.unwrap(), Drained::Complete);
        assert_eq!(before.elapsed().as_secs(), 5);
        assert_eq!(shutdown.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn drained_ends_at_its_deadline() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.spawn(std::future::pending::<()>());
        let before = tokio::time::Instant::now();
        assert_eq!(shutdown.drained(Duration::from_secs(30)).await, Drained::TimedOut { tasks_left: 2 });
        assert_eq!(before.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn second_signal_ends_a_drain() {
        let shutdown = Shutdown::new();
        shutdown.signal(Terminate);
        shutdown.spawn(std::future::pending::<()>());
        let handle = shutdown.clone();
        tokio::spawn(async move { handle.signal(Terminate) });
        assert_eq!(shutdown.drained(LONG).await, Drained::Interrupted { tasks_left: 1 });
    }

    #[tokio::test]
    async fn drained_without_tasks_is_always_complete() {
        let shutdown = Shutdown::new();
        shutdown.spawn(async {}).await.unwrap();
        shutdown.signal(Interrupt);
        for _ in 0..100 {
            assert_eq!(shutdown.drained(Duration::ZERO).await, Drained::Complete);
        }
    }
}
