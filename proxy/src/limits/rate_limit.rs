//! Rate limits: how often an event may happen, for each of many keys ([`Limit`]) or client networks ([`NetworkLimit`]).
//!
//! `accept`, `auth`, `cancel` and, for wakes, `control_plane` ask before they do anything expensive.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use utils::leaky_bucket::LeakyBuckets;

use super::client_network::network;
use crate::config::RateOptions;

/// Networks that are remembered, at most. The one that was quiet for longest is forgotten first.
const NETWORKS_MAX: usize = 10_000;

/// A rate limit for each of many keys.
#[derive(Debug)]
pub(crate) struct Limit<K> {
    keys_max: usize,
    current: Mutex<Current<K>>,
}

#[derive(Debug)]
struct Current<K> {
    options: RateOptions,
    /// `None` is no limit.
    buckets: Option<LeakyBuckets<K>>,
}

impl<K: Eq + Hash> Current<K> {
    fn new(options: RateOptions, keys_max: usize) -> Self {
        Self { options, buckets: options.rate.map(|rate| LeakyBuckets::new(rate, keys_max)) }
    }
}

impl<K: Clone + Eq + Hash> Limit<K> {
    /// A limit that remembers `keys_max` keys. Beyond that, the keys that were quiet for longest are forgotten.
    pub(crate) fn new(options: RateOptions, keys_max: usize) -> Self {
        Self { keys_max, current: Mutex::new(Current::new(options, keys_max)) }
    }

    /// Changes the rate. Every key starts anew: a bucket is stored as a time, so a bucket that a slow rate filled would take
    /// as long to drain at a faster one, and a refused client would wait longer after a raise.
    pub(crate) fn set(&self, options: RateOptions) {
        let mut current = self.lock();
        // A reload that changes other options must not empty the buckets.
        if current.options != options {
            *current = Current::new(options, self.keys_max);
        }
    }

    /// Counts an event.
    ///
    /// # Errors
    ///
    /// How long to wait before the next event. A refused event does not count.
    pub(crate) fn try_acquire(&self, key: &K) -> Result<(), Duration> {
        let mut current = self.lock();
        let Some(buckets) = &mut current.buckets else { return Ok(()) };
        buckets.try_acquire(key, Instant::now().into_std()).map_err(|refused| refused.retry_after)
    }

    /// Forgets the keys whose buckets are empty.
    pub(crate) fn sweep(&self) {
        if let Some(buckets) = &mut self.lock().buckets {
            buckets.sweep(Instant::now().into_std());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current<K>> {
        self.current.lock()
    }
}

/// A rate limit for each client network.
#[derive(Debug)]
pub(crate) struct NetworkLimit(pub(super) Limit<IpAddr>);

impl Default for NetworkLimit {
    fn default() -> Self {
        Self::new(RateOptions { rate: None })
    }
}

impl NetworkLimit {
    pub(crate) fn new(options: RateOptions) -> Self {
        Self(Limit::new(options, NETWORKS_MAX))
    }

    /// Counts an event of the network of `address`.
    ///
    /// # Errors
    ///
    /// How long to wait before the next event.
    pub(crate) fn try_acquire(&self, address: IpAddr) -> Result<(), Duration> {
        self.0.try_acquire(&network(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn limit_passes_a_burst_then_the_rate() {
        let limit = NetworkLimit::new("rate=2,burst=10".parse().unwrap());
        let burst = |address| (0..100).filter(|_| limit.try_acquire(ip(address)).is_ok()).count();
        assert_eq!((burst("192.0.2.1"), burst("192.0.2.255"), burst("192.0.3.1")), (10, 0, 10));
        assert_eq!(limit.try_acquire(ip("192.0.2.1")), Err(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(burst("192.0.2.1"), 6);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst("192.0.2.1"), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_remembers_keys_max_and_sweeps_quiet_ones() {
        let limit = Limit::new("rate=1,burst=1".parse().unwrap(), 100);
        (0..1000).for_each(|key| limit.try_acquire(&key).unwrap());
        let kept = || limit.lock().buckets.as_ref().unwrap().len();
        assert_eq!(kept(), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        limit.sweep();
        assert_eq!(kept(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_limit_applies_to_refused_keys_at_once() {
        let limit = Limit::new("rate=1,burst=20".parse().unwrap(), 10);
        let burst = || (0..1000).filter(|_| limit.try_acquire(&1).is_ok()).count();
        assert_eq!((burst(), burst()), (20, 0));
        // The same again forgives nothing.
        limit.set("burst=20,rate=1".parse().unwrap());
        assert_eq!(burst(), 0);
        for (options, at_once) in
            [("rate=10,burst=20", 20), ("rate=10,burst=30", 30), ("off", 1000), ("rate=1,burst=2", 2)]
        {
            limit.set(options.parse().unwrap());
            assert_eq!(burst(), at_once, "{options}");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(burst(), 1);
    }

    #[test]
    fn limit_off_refuses_nothing() {
        let limit = Limit::new("off".parse().unwrap(), 1);
        assert!((0..100_000).all(|_| limit.try_acquire(&1).is_ok()));
    }
}
