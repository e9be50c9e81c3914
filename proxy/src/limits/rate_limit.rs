//! How often something may be done: [`Limit`] for each of many keys, [`NetworkLimit`] for the networks that clients come
//! from. Decided before anything expensive. Called by `accept`, `auth`, `cancel` and, for wakes, by `control_plane`.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use utils::leaky_bucket::LeakyBuckets;

use super::client_network::network;
use crate::config::RateOptions;

/// Networks that are remembered at most; the one that was quiet for longest is forgotten first.
const NETWORKS_MAX: usize = 10_000;

/// How often something may be done for each of many keys.
#[derive(Debug)]
pub(crate) struct Limit<K> {
    keys_max: usize,
    current: Mutex<Current<K>>,
}

#[derive(Debug)]
struct Current<K> {
    options: RateOptions,
    /// `None` is without limit.
    buckets: Option<LeakyBuckets<K>>,
}

impl<K: Eq + Hash> Current<K> {
    fn new(options: RateOptions, keys_max: usize) -> Self {
        Self { options, buckets: options.rate.map(|rate| LeakyBuckets::new(rate, keys_max)) }
    }
}

impl<K: Clone + Eq + Hash> Limit<K> {
    /// Remembers `keys_max` at most; of more, those that were quiet for longest are forgotten first.
    pub(crate) fn new(options: RateOptions, keys_max: usize) -> Self {
        Self { keys_max, current: Mutex::new(Current::new(options, keys_max)) }
    }

    /// From now on. Buckets are kept as times: what filled one slowly would take as long to leak from a faster one, so who
    /// was refused would wait longer by a higher rate. Hence everybody begins anew.
    pub(crate) fn set(&self, options: RateOptions) {
        let mut current = self.lock();
        // What is read again because of something else forgives nobody.
        if current.options != options {
            *current = Current::new(options, self.keys_max);
        }
    }

    /// Counts an event. An error says how long to wait before the next one, and does not count.
    pub(crate) fn take(&self, key: &K) -> Result<(), Duration> {
        let mut current = self.lock();
        let Some(buckets) = &mut current.buckets else { return Ok(()) };
        buckets.try_acquire(key, Instant::now().into_std()).map_err(|refused| refused.retry_after)
    }

    /// Forgets who is as if it had never been there.
    pub(crate) fn sweep(&self) {
        if let Some(buckets) = &mut self.lock().buckets {
            buckets.sweep(Instant::now().into_std());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current<K>> {
        // Nothing panics under this lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same for the networks that clients come from.
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

    /// Counts an event; an error says how long to wait.
    pub(crate) fn take(&self, address: IpAddr) -> Result<(), Duration> {
        self.0.take(&network(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_through_and_then_the_rate() {
        let limit = NetworkLimit::new("rate=2,burst=10".parse().unwrap());
        let burst = |address| (0..100).filter(|_| limit.take(ip(address)).is_ok()).count();
        assert_eq!((burst("192.0.2.1"), burst("192.0.2.255"), burst("192.0.3.1")), (10, 0, 10));
        assert_eq!(limit.take(ip("192.0.2.1")), Err(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(burst("192.0.2.1"), 6);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst("192.0.2.1"), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_keys_are_remembered_as_there_may_be_and_none_that_is_quiet() {
        let limit = Limit::new("rate=1,burst=1".parse().unwrap(), 100);
        (0..1000).for_each(|key| limit.take(&key).unwrap());
        let kept = || limit.lock().buckets.as_ref().unwrap().len();
        assert_eq!(kept(), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        limit.sweep();
        assert_eq!(kept(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_changes_counts_at_once_for_whoever_was_refused_by_the_old_one() {
        let limit = Limit::new("rate=1,burst=20".parse().unwrap(), 10);
        let burst = || (0..1000).filter(|_| limit.take(&1).is_ok()).count();
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
    fn what_is_off_is_without_limit() {
        let limit = Limit::new("off".parse().unwrap(), 1);
        assert!((0..100_000).all(|_| limit.take(&1).is_ok()));
    }
}
