//! Supervision of background tasks: reloads, suspension of idle computes, the HTTP port for operators. A task that panics is
//! restarted after a pause; sessions do not notice. Called by `server`.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use utils::Backoff;

use crate::observe::metrics::{ByTask, Metrics};

/// Pauses before a task is restarted.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);

/// A background task. It is aborted when this value is dropped.
#[derive(Debug)]
pub(crate) struct Supervised(JoinHandle<()>);

impl Supervised {
    /// Returns when the task has returned.
    pub(crate) async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs the future that `begin` makes, as a task. When it panics, makes and runs another one after a pause. Ends when
/// one returns.
pub(crate) fn supervise<F>(
    name: &'static str,
    metrics: &Metrics,
    begin: impl FnMut() -> F + Send + 'static,
) -> Supervised
where
    F: Future<Output = ()> + Send + 'static,
{
    supervise_on(Handle::current(), name, metrics, begin)
}

/// As [`supervise`], and runs the futures on another runtime.
pub(crate) fn supervise_on<F>(
    runtime: Handle,
    name: &'static str,
    metrics: &Metrics,
    mut begin: impl FnMut() -> F + Send + 'static,
) -> Supervised
where
    F: Future<Output = ()> + Send + 'static,
{
    let restarts = metrics.task_restarts.get_or_create(&ByTask { task: name }).clone();
    Supervised(tokio::spawn(async move {
        let mut backoff = Backoff::new(RESTART_DELAY_MIN, RESTART_DELAY_MAX);
        loop {
            let mut task = Supervised(runtime.spawn(begin()));
            match (&mut task.0).await {
                Ok(()) => return,
                Err(error) if error.is_cancelled() => return,
                Err(error) => {
                    restarts.inc();
                    tracing::error!(task = name, %error, "background task failed, restarting");
                    backoff.wait().await;
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn panicked_task_is_restarted_and_counted() {
        let metrics = Metrics::new(&mut Default::default());
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let task = supervise("test", &metrics, move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(number >= 2, "this is what the test is about") }
        });
        task.ended().await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        assert_eq!(metrics.task_restarts.get_or_create(&ByTask { task: "test" }).get(), 2);
    }

    #[tokio::test]
    async fn dropped_task_is_aborted() {
        let metrics = Metrics::new(&mut Default::default());
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let task = supervise("test", &metrics, move || {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        });
        tokio::task::yield_now().await;
        drop(task);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
