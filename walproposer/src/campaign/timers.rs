//! Timers of elections: how long a candidate waits for votes, and an optional due time as a future.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::{Instant, sleep_until};

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
