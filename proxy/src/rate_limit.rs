//! How much somebody may ask for: connections at the same time ([`Connections`]), and events by and by ([`Limit`],
//! [`NetworkLimit`]). Both are decided before anything expensive. Called by `accept`, `auth`, `cancel` and, for wakes, by
//! `control_plane`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pq_proto::{ErrorResponse, SqlState};
use tokio::time::Instant;
use utils::leaky_bucket::LeakyBuckets;

use crate::config::RateOptions;

/// Networks that are remembered at most; the one that was quiet for longest is forgotten first.
const NETWORKS_MAX: usize = 10_000;

/// Who counts as one client. With IPv6 a single one has a whole /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !0 << 64)),
        address => address,
    }
}

/// The neighbourhood of an address: /24, /64.
fn network(address: IpAddr) -> IpAddr {
    match source(address) {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !0 << 8).into()),
        address => address,
    }
}

/// Connections at the same time, of all clients and of each.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    arrivals: NetworkLimit,
}

/// How many there may be; 0 is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionsMax {
    /// Of all clients.
    pub(crate) total: usize,
    /// Of one client.
    pub(crate) per_source: usize,
}

#[derive(Debug, Default)]
struct Open {
    max: ConnectionsMax,
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One more is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("sorry, too many clients already")]
    Total,
    #[error("sorry, too many connections from this address already")]
    FromSource,
    #[error("sorry, too many connections from this network in a short time")]
    FromNetwork,
}

impl TooMany {
    /// A word for the metrics and the log.
    pub(crate) const fn how(self) -> &'static str {
        match self {
            Self::Total => "too_many",
            Self::FromSource => "too_many_from_address",
            Self::FromNetwork => "too_many_from_network",
        }
    }

    /// What the client is told.
    pub(crate) fn response(self) -> ErrorResponse {
        ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, self.to_string())
            .with_hint("Close connections that are not needed, or try again later.")
    }
}

impl Connections {
    pub(crate) fn new(max: ConnectionsMax) -> Self {
        Self { open: Mutex::new(Open { max, ..Open::default() }), arrivals: NetworkLimit::default() }
    }

    /// From now on. Those that are too many by it stay.
    pub(crate) fn set_max(&self, max: ConnectionsMax) {
        self.lock().max = max;
    }

    /// How often one network may come, from now on.
    pub(crate) fn set_arrivals(&self, arrivals: RateOptions) {
        self.arrivals.0.set(arrivals);
    }

    /// And not more often than that from one network.
    pub(crate) fn with_arrivals(self, arrivals: RateOptions) -> Self {
        Self { arrivals: NetworkLimit::new(arrivals), ..self }
    }

    /// Lets one more in, from wherever it comes.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Admitted, TooMany> {
        let mut open = self.lock();
        if open.max.total > 0 && open.total >= open.max.total {
            return Err(TooMany::Total);
        }
        open.total += 1;
        Ok(Admitted { connections: Arc::clone(self), source: None })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics under this lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts for as long as this lives.
#[derive(Debug)]
pub(crate) struct Admitted {
    connections: Arc<Connections>,
    source: Option<IpAddr>,
}

impl Admitted {
    /// Says who it is, once that is known.
    pub(crate) fn comes_from(&mut self, address: IpAddr) -> Result<(), TooMany> {
        self.connections.arrivals.take(address).map_err(|_| TooMany::FromNetwork)?;
        let source = source(address);
        let mut open = self.connections.lock();
        let per_source_max = open.max.per_source;
        let count = open.by_source.get(&source).copied().unwrap_or_default();
        if per_source_max > 0 && count >= per_source_max {
            return Err(TooMany::FromSource);
        }
        // Counted without a limit, too: one may come while they are here.
        open.by_source.insert(source, count + 1);
        self.source = Some(source);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.total -= 1;
        if let Some(source) = self.source
            && let Some(count) = open.by_source.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                open.by_source.remove(&source);
            }
        }
    }
}

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
pub(crate) struct NetworkLimit(Limit<IpAddr>);

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

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network_however_it_is_written() {
        for (address, as_source, as_network) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1:2::"),
            ("::1", "::", "::"),
        ] {
            assert_eq!((source(ip(address)), network(ip(address))), (ip(as_source), ip(as_network)));
        }
    }

    #[test]
    fn who_leaves_makes_room() {
        let connections = Arc::new(Connections::new(ConnectionsMax { total: 2, per_source: 0 }));
        let one = connections.enter().unwrap();
        let _two = connections.enter().unwrap();
        assert_eq!(connections.enter().unwrap_err(), TooMany::Total);
        drop(one);
        connections.enter().unwrap();
    }

    #[test]
    fn one_address_takes_no_room_from_another_and_is_forgotten_when_it_leaves() {
        let connections = Arc::new(Connections::new(ConnectionsMax { total: 0, per_source: 1 }));
        let enter = |address| {
            let mut admitted = connections.enter().unwrap();
            admitted.comes_from(ip(address)).map(|()| admitted)
        };
        let first = enter("192.0.2.1").unwrap();
        assert_eq!(enter("::ffff:192.0.2.1").unwrap_err(), TooMany::FromSource);
        let other = enter("192.0.2.2").unwrap();
        let v6 = enter("2001:db8::1").unwrap();
        assert_eq!(enter("2001:db8::2").unwrap_err(), TooMany::FromSource);
        assert_eq!(connections.lock().total, 3);
        drop(first);
        let again = enter("192.0.2.1").unwrap();
        drop((again, other, v6));
        let open = connections.lock();
        assert_eq!((open.total, open.by_source.len()), (0, 0));
    }

    #[test]
    fn a_limit_that_changes_counts_those_who_are_here_and_sends_nobody_away() {
        let connections = Arc::new(Connections::new(ConnectionsMax::default()));
        let enter = || {
            let mut admitted = connections.enter()?;
            admitted.comes_from(ip("192.0.2.1")).map(|()| admitted)
        };
        let here = [enter().unwrap(), enter().unwrap()];
        connections.set_max(ConnectionsMax { total: 0, per_source: 2 });
        assert_eq!(enter().unwrap_err(), TooMany::FromSource);
        connections.set_max(ConnectionsMax { total: 1, per_source: 0 });
        assert_eq!(enter().unwrap_err(), TooMany::Total);
        connections.set_max(ConnectionsMax { total: 3, per_source: 3 });
        let third = enter().unwrap();
        drop((here, third));
        let open = connections.lock();
        assert_eq!((open.total, open.by_source.len()), (0, 0));
    }

    #[test]
    fn zero_is_without_limit() {
        let connections = Arc::new(Connections::new(ConnectionsMax::default()));
        let all: Vec<_> = (0..1000).map(|_| connections.enter().unwrap()).collect();
        assert_eq!(connections.lock().total, all.len());
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

    #[test]
    fn connections_from_one_network_in_a_short_time_have_a_limit_and_others_do_not_feel_it() {
        let connections = Arc::new(
            Connections::new(ConnectionsMax::default()).with_arrivals("rate=1,burst=3".parse().unwrap()),
        );
        let enter = |address: &str| connections.enter().unwrap().comes_from(ip(address));
        for last in 1..=3 {
            enter(&format!("192.0.2.{last}")).unwrap();
        }
        assert_eq!(enter("192.0.2.4").unwrap_err(), TooMany::FromNetwork);
        enter("192.0.3.1").unwrap();
        assert_eq!(TooMany::FromNetwork.response().sqlstate, SqlState::TOO_MANY_CONNECTIONS);
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
