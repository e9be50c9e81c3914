//! Failed logins: delays the next login from an address whose logins failed, so that guessing passwords, roles and
//! endpoints takes long.
//!
//! The delay applies to right and wrong passwords alike. `auth` calls it at the start and at the end of each login.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use utils::TimedLru;
use utils::timed_lru::Ttl;

use super::client_network::source;

/// Clients that are remembered, at most. The one whose last failure is oldest is forgotten first.
const NETWORKS_MAX: usize = 10_000;
/// Failures without a delay: people mistype, and a fleet with an old password reconnects all at once.
const FREE_FAILURES: u32 = 10;
/// Time without a failure after which one failure is forgotten.
const FORGIVE_INTERVAL: Duration = Duration::from_secs(6);
/// The first delay. Each further failure doubles it.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest delay. It is well below the login timeout, because other clients behind the same address wait too.
const DELAY_MAX: Duration = Duration::from_secs(3);

/// Recent failures of each client address.
#[derive(Debug)]
pub(crate) struct FailedLogins(Mutex<TimedLru<IpAddr, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Default for FailedLogins {
    fn default() -> Self {
        Self(Mutex::new(TimedLru::new(NETWORKS_MAX)))
    }
}

impl FailedLogins {
    /// How long the next login from `address` has to wait.
    pub(crate) fn delay(&self, address: IpAddr, now: Instant) -> Duration {
        let failures = self.lock().get(&source(address), now).value().copied();
        let count = failures.map_or(0, |failures| failures.count_at(now));
        match count.checked_sub(FREE_FAILURES) {
            None | Some(0) => Duration::ZERO,
            Some(over) => 2_u32
                .checked_pow(over - 1)
                .map_or(DELAY_MAX, |factor| DELAY_MIN.saturating_mul(factor).min(DELAY_MAX)),
        }
    }

    /// Records a failed login from `address`.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) {
        let mut networks = self.lock();
        let before = networks.get(&source(address), now).value().copied();
        let count = before.map_or(0, |failures| failures.count_at(now)).saturating_add(1);
        // The entry may expire when all its failures are forgotten.
        let ttl = Ttl::absolute(FORGIVE_INTERVAL.saturating_mul(count));
        networks.insert(source(address), Failures { count, last: now }, ttl, now);
    }

    fn lock(&self) -> MutexGuard<'_, TimedLru<IpAddr, Failures>> {
        self.0.lock()
    }
}

impl Failures {
    fn count_at(self, now: Instant) -> u32 {
        let quiet = now.saturating_duration_since(self.last).as_secs() / FORGIVE_INTERVAL.as_secs();
        self.count.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(logins: &FailedLogins, address: &str, times: u32, now: Instant) {
        (0..times).for_each(|_| logins.failed(address.parse().unwrap(), now));
    }

    fn delay(logins: &FailedLogins, address: &str, now: Instant) -> Duration {
        logins.delay(address.parse().unwrap(), now)
    }

    #[test]
    fn failed_logins_double_the_delay_up_to_maximum() {
        let (logins, now) = (FailedLogins::default(), Instant::now());
        fail(&logins, "10.0.0.1", FREE_FAILURES, now);
        assert_eq!(delay(&logins, "10.0.0.1", now), Duration::ZERO);
        let delays: Vec<u128> = (0..7)
            .map(|_| {
                fail(&logins, "10.0.0.1", 1, now);
                delay(&logins, "10.0.0.1", now).as_millis()
            })
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3000, 3000]);
        fail(&logins, "10.0.0.1", 1000, now);
        assert_eq!(delay(&logins, "10.0.0.1", now), DELAY_MAX);
    }

    #[test]
    fn failures_are_forgotten_with_time() {
        let (logins, now) = (FailedLogins::default(), Instant::now());
        fail(&logins, "10.0.0.1", FREE_FAILURES + 2, now);
        for (seconds, expected) in [(5, 200), (6, 100), (11, 100), (12, 0), (1000, 0)] {
            assert_eq!(delay(&logins, "10.0.0.1", now + SECOND * seconds).as_millis(), expected, "{seconds}");
        }
    }

    #[test]
    fn failed_logins_count_per_client_network() {
        let (logins, now) = (FailedLogins::default(), Instant::now());
        fail(&logins, "10.0.0.1", FREE_FAILURES + 1, now);
        fail(&logins, "2001:db8::1", FREE_FAILURES + 1, now);
        for (address, waits) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.2", false),
            ("2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", false),
        ] {
            assert_eq!(delay(&logins, address, now) > Duration::ZERO, waits, "{address}");
        }
    }
}
