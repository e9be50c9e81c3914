//! [`Backoff`]: computes how long to wait before the next attempt.
//!
//! The caller decides which failure is worth another attempt and when to give up. Called by every loop that connects to
//! a peer: safekeeper links, compute connections, control plane requests.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Shortest delay of [`Backoff::default`].
pub const BACKOFF_DELAY_MIN: Duration = Duration::from_millis(50);
/// Longest delay of [`Backoff::default`].
pub const BACKOFF_DELAY_MAX: Duration = Duration::from_secs(5);

/// Exponential delays with full jitter: the n-th delay is drawn evenly from `min ..= min(max, min * 2^n)`.
///
/// The whole range is random, not only a few percent at its end, so that a hundred clients that lost one server at the
/// same moment do not return at the same moment. `min` is a floor because a connection to the same machine is refused
/// at once: with a delay near zero the loop would spin.
///
/// ```
/// use std::time::Duration;
/// use rand::{SeedableRng, rngs::StdRng};
/// use utils::Backoff;
///
/// let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
/// let (mut backoff, mut random) = (Backoff::new(min, max), StdRng::seed_from_u64(1));
/// let first = backoff.next_delay(&mut random);
/// assert!(first >= min && first <= 2 * min);
/// for _ in 0..20 {
///     assert!(backoff.next_delay(&mut random) <= max);
/// }
///
/// // After a success the next failure waits briefly again.
/// backoff.reset();
/// assert!(backoff.next_delay(&mut random) <= 2 * min);
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(BACKOFF_DELAY_MIN, BACKOFF_DELAY_MAX)
    }
}

impl Backoff {
    /// Delays between `min` and `max`. A `max` below `min` counts as `min`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0 }
    }

    /// Counts one attempt and draws its delay from `random`.
    pub fn next_delay(&mut self, random: &mut impl Rng) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        random.random_range(self.min..=self.ceiling())
    }

    /// Sleeps for the next delay. Dropping the future ends the wait early; the attempt stays counted.
    pub async fn wait(&mut self) {
        let delay = self.next_delay(&mut rand::rng());
        tokio::time::sleep(delay).await;
    }

    /// Starts again with the shortest range; called after a success.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Number of delays since the start or the last [`reset`](Self::reset).
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Longest delay of the current attempt.
    fn ceiling(&self) -> Duration {
        let factor = 2_u32.checked_pow(self.attempts).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max).max(self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(2);

    #[test]
    fn delay_ceiling_doubles_until_the_maximum() {
        let mut backoff = Backoff::new(MIN, MAX);
        let mut random = StdRng::seed_from_u64(1);
        let ceilings: Vec<u128> = (0..7)
            .map(|_| {
                backoff.next_delay(&mut random);
                backoff.ceiling().as_millis()
            })
            .collect();
        assert_eq!(ceilings, [200, 400, 800, 1600, 2000, 2000, 2000]);
        for attempts in [31, 32, 33, u32::MAX] {
            assert_eq!(Backoff { min: MIN, max: MAX, attempts }.ceiling(), MAX, "{attempts}");
        }
    }

    #[test]
    fn next_delay_uses_the_whole_range() {
        let mut random = StdRng::seed_from_u64(2);
        let third_delays: Vec<Duration> = (0..1000)
            .map(|_| {
                let mut backoff = Backoff::new(MIN, MAX);
                backoff.next_delay(&mut random);
                backoff.next_delay(&mut random);
                backoff.next_delay(&mut random)
            })
            .collect();
        let shortest = third_delays.iter().min().unwrap();
        let longest = third_delays.iter().max().unwrap();
        assert!(*shortest >= MIN && *shortest < MIN * 2, "{shortest:?}");
        assert!(*longest <= MIN * 8 && *longest > MIN * 7, "{longest:?}");
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::new(MIN, MAX);
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..10 {
            backoff.next_delay(&mut random);
        }
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert!(backoff.next_delay(&mut random) <= MIN * 2);
    }

    #[test]
    fn no_number_of_attempts_overflows() {
        let mut random = StdRng::seed_from_u64(4);
        for (min, max) in [(MIN, MAX), (Duration::ZERO, Duration::ZERO), (MIN, Duration::MAX), (MAX, MIN)] {
            let mut backoff = Backoff { min, max, attempts: u32::MAX - 1 };
            for _ in 0..3 {
                let delay = backoff.next_delay(&mut random);
                assert!(delay >= min && delay <= max.max(min), "{min:?} {max:?} {delay:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wait_takes_at_least_the_minimum() {
        let before = tokio::time::Instant::now();
        Backoff::new(MIN, MAX).wait().await;
        assert!(before.elapsed() >= MIN);
    }
}
