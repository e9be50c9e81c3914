//! Timers of elections and commits: how long a candidate waits for votes, an optional due time as a future, and a timer
//! that is kept and moved instead of made anew.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::{Instant, Sleep, sleep_until};

/// Shortest wait for votes. A vote takes one message and one sync. When the wait was too short, only a term is wasted.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// Longest wait for votes.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// How long a candidate waits for votes. Two candidates may have split the votes and each wait for the vote of a safekeeper
/// that is gone. The time is random, so that the two do not begin again together.
pub(crate) fn election_timeout(random: &mut impl Rng) -> Duration {
    random.random_range(ELECTION_TIMEOUT_MIN..=ELECTION_TIMEOUT_MAX)
}

/// Completes at `at`, or never when there is no due time. Cancel-safe.
pub(crate) async fn sleep_until_due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A timer that is set again and again. Moving it further away costs the runtime nothing.
#[derive(Debug)]
pub(super) struct KeptTimer {
    sleep: Pin<Box<Sleep>>,
    is_set: bool,
}

impl KeptTimer {
    /// A timer that is not set. Needs a runtime.
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), is_set: false }
    }

    /// Sets the timer, or moves it. True when it was not set: it is then to be polled, or it wakes nobody.
    #[must_use]
    pub(super) fn set(&mut self, at: Instant) -> bool {
        self.sleep.as_mut().reset(at);
        !std::mem::replace(&mut self.is_set, true)
    }

    /// Completes once for each time that was set.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_set || self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.is_set = false;
        Poll::Ready(())
    }
}
