//! [`WakeFlag`]: tells a task that polls many things which of them has woken it.
//!
//! A future that is polled only because another one woke the task costs time at every turn. A flag is the waker of one
//! source: it wakes the task and remembers that it did, and without that the task does not poll the source.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;

/// The task that polls the sources of some flags.
#[derive(Debug)]
pub struct FlaggedTask {
    newest: Waker,
    shared: Arc<Mutex<Waker>>,
}

/// The flag of one source. It is set when it is new: the first poll is due without a wake.
#[derive(Debug)]
pub struct WakeFlag {
    source: Arc<Source>,
    waker: Waker,
}

#[derive(Debug)]
struct Source {
    is_set: AtomicBool,
    task: Arc<Mutex<Waker>>,
}

impl FlaggedTask {
    /// A task that is not known yet.
    #[must_use]
    pub fn new() -> Self {
        Self { newest: Waker::noop().clone(), shared: Arc::new(Mutex::new(Waker::noop().clone())) }
    }

    /// Sets the task that is woken from now on. Called at each poll, before the flags are looked at.
    pub fn set(&mut self, cx: &Context<'_>) {
        if !self.newest.will_wake(cx.waker()) {
            self.newest.clone_from(cx.waker());
            self.shared.lock().clone_from(cx.waker());
        }
    }

    /// A flag for another source.
    #[must_use]
    pub fn flag(&self) -> WakeFlag {
        let source = Arc::new(Source { is_set: AtomicBool::new(true), task: Arc::clone(&self.shared) });
        WakeFlag { waker: Waker::from(Arc::clone(&source)), source }
    }
}

impl Default for FlaggedTask {
    fn default() -> Self {
        Self::new()
    }
}

impl WakeFlag {
    /// True when the source is to be polled. Clears the flag: the source is then polled until it is pending, or the flag is
    /// set again.
    pub fn take(&self) -> bool {
        self.source.is_set.load(Ordering::Relaxed) && self.source.is_set.swap(false, Ordering::Acquire)
    }

    /// Sets the flag and does not wake the task: the source is polled at the next turn.
    pub fn set(&self) {
        self.source.is_set.store(true, Ordering::Release);
    }

    /// What the source is polled with.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The flag first: the task may run at once.
        self.is_set.store(true, Ordering::Release);
        self.task.lock().wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A wake sets the flag of its own source only, and reaches the task that was set last.
    #[test]
    fn wake_flag_tells_its_source_apart() {
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let mut task = FlaggedTask::new();
        let (socket, timer) = (task.flag(), task.flag());
        assert!(socket.take() && timer.take());

        task.set(&Context::from_waker(&Arc::clone(&first).into()));
        socket.waker().wake_by_ref();
        assert!(!timer.take() && socket.take() && !socket.take());

        task.set(&Context::from_waker(&Arc::clone(&second).into()));
        timer.waker().wake_by_ref();
        assert!(timer.take() && !socket.take());
        let wakes = |task: &Task| task.0.load(Ordering::Relaxed);
        assert_eq!((wakes(&first), wakes(&second)), (1, 1));

        socket.set();
        assert!(socket.take());
        assert_eq!(wakes(&second), 1);
    }
}
