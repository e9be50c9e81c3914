//! [`OpenRetries`]: tries timelines that could not be opened again, one after the other, for as long as their disk is full
//! or failed.
//!
//! A recovery reads and writes a lot, and the disk may serve other timelines meanwhile, so there is a pause after each
//! failed attempt. After a success the disk works, and the next attempt need not wait. Runs beside the shards.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Pause after a failed attempt to open a timeline.
const OPEN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One attempt to open a timeline; called again while it returns false. May block.
pub(super) type OpenAttempt = Box<dyn FnMut() -> bool + Send>;

/// Timelines that are not open yet; the next one to try is in front.
#[derive(Default)]
pub(super) struct OpenRetries {
    attempts: Mutex<VecDeque<OpenAttempt>>,
    added: Notify,
}

impl fmt::Debug for OpenRetries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRetries").field("waiting", &self.attempts.lock().len()).finish()
    }
}

impl OpenRetries {
    /// Adds an attempt that has just failed once.
    pub(super) fn add(&self, attempt: OpenAttempt) {
        self.attempts.lock().push_back(attempt);
        self.added.notify_one();
    }

    /// Tries, again and again, until `stop` is ready and the attempt under way has ended.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut has_failed = true;
        loop {
            tokio::select! {
                () = &mut stop => return,
                // Cancel safe: an attempt is taken only when this has returned.
                () = self.next_is_due(has_failed) => {}
            }
            let Some(mut attempt) = self.attempts.lock().pop_front() else {
                has_failed = true;
                continue;
            };
            let tried = spawn_blocking(move || {
                let is_done = attempt();
                (attempt, is_done)
            });
            // An attempt that panicked is not tried again; the panic is in the log.
            let Ok((attempt, is_done)) = tried.await else { continue };
            if !is_done {
                self.attempts.lock().push_back(attempt);
            }
            has_failed = !is_done;
        }
    }

    async fn next_is_due(&self, has_failed: bool) {
        while self.attempts.lock().is_empty() {
            self.added.notified().await;
        }
        if has_failed {
            sleep(OPEN_RETRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    /// After a failed attempt comes a pause; after a success the next attempt follows at once.
    #[tokio::test(start_paused = true)]
    async fn failed_open_attempt_pauses_the_next_one() {
        let (retries, (tried, mut trials)) = (Arc::new(OpenRetries::default()), mpsc::unbounded_channel());
        for (name, succeeds_at) in [("a", 2), ("b", 1), ("c", 1)] {
            let (tried, mut count) = (tried.clone(), 0);
            retries.add(Box::new(move || {
                count += 1;
                tried.send(name).unwrap();
                count == succeeds_at
            }));
        }
        let begin = Instant::now();
        let running = tokio::spawn({
            let retries = Arc::clone(&retries);
            async move { retries.run(std::future::pending()).await }
        });
        let mut at = Vec::new();
        for _ in 0..4 {
            let name = trials.recv().await.unwrap();
            at.push((name, begin.elapsed().as_secs()));
        }
        // Each attempt had just failed when it was added.
        assert_eq!(at, [("a", 1), ("b", 2), ("c", 2), ("a", 2)]);
        running.abort();
    }
}
