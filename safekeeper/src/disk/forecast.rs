//! [`Forecast`]: when the disk will be full at the rate of the last ten minutes. Pure; the time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::level::DiskUse;

/// Time over which the rate is taken.
const WINDOW: Duration = Duration::from_secs(600);
/// Shortest time between two samples that are kept.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest time over which a rate says anything.
const WINDOW_MIN: Duration = Duration::from_secs(60);
/// Below this part of the disk there is no forecast, in percent: it would be a guess over days.
const USED_PERCENT_MIN: u64 = 50;

/// Samples of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    /// Times and used bytes, oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Forecast {
    /// Adds a measurement, and returns the time until nothing is free; `None` while that is not in sight.
    pub(super) fn observe(&mut self, now: Instant, disk: &DiskUse) -> Option<Duration> {
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_INTERVAL) {
            self.samples.push_back((now, disk.used));
        }
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }

        let &(since, used_then) = self.samples.front()?;
        let passed = now.duration_since(since);
        let grown = disk.used.saturating_sub(used_then);
        if passed < WINDOW_MIN || grown == 0 || disk.used < disk.total() / 100 * USED_PERCENT_MIN {
            return None;
        }
        Some(Duration::from_secs_f64(passed.as_secs_f64() / grown as f64 * disk.available as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(used: u64) -> DiskUse {
        DiskUse { used, available: 100_000 - used }
    }

    #[test]
    fn forecast_follows_the_last_ten_minutes() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut forecast = Forecast::default();
        assert_eq!(forecast.observe(at(0), &disk(60_000)), None);
        assert_eq!(forecast.observe(at(30), &disk(60_300)), None, "too short a time");
        // Ten bytes a second.
        assert_eq!(forecast.observe(at(100), &disk(61_000)), Some(Duration::from_secs(3_900)));
        for second in (200..=1000).step_by(100) {
            let _ = forecast.observe(at(second), &disk(61_000));
        }
        assert_eq!(forecast.observe(at(1001), &disk(61_000)), None, "it does not grow any more");
        assert_eq!(forecast.observe(at(1002), &disk(40_000)), None, "it shrinks");
    }

    #[test]
    fn half_empty_disk_has_no_forecast() {
        let begin = Instant::now();
        let mut forecast = Forecast::default();
        let _ = forecast.observe(begin, &disk(1000));
        assert_eq!(forecast.observe(begin + WINDOW, &disk(49_000)), None);
        assert!(forecast.observe(begin + WINDOW, &disk(50_000)).is_some());
    }
}
