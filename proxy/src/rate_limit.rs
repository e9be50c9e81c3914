//! How much one address may ask for: connections at the same time ([`Connections`]) and events by and by ([`Rate`]).
//! Both are decided before anything expensive. Called by `accept` and `cancel`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pq_proto::{ErrorResponse, SqlState};
use tokio::time::Instant;
use utils::TimedLru;
use utils::timed_lru::{Lookup, Ttl};

/// Networks that a [`Rate`] remembers at most; the one that was quiet for longest is forgotten first.
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
    /// Of all clients; 0 is without limit.
    total_max: usize,
    /// Of one client; 0 is without limit.
    per_source_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
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
}

impl TooMany {
    /// A word for the metrics and the log.
    pub(crate) const fn how(self) -> &'static str {
        match self {
            Self::Total => "too_many",
            Self::FromSource => "too_many_from_address",
        }
    }

    /// What the client is told.
    pub(crate) fn response(self) -> ErrorResponse {
        ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, self.to_string())
            .with_hint("Close connections that are not needed, or try again later.")
    }
}

impl Connections {
    pub(crate) fn new(total_max: usize, per_source_max: usize) -> Self {
        Self { total_max, per_source_max, open: Mutex::default() }
    }

    /// Lets one more in, from wherever it comes.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Admitted, TooMany> {
        let mut open = self.lock();
        if self.total_max > 0 && open.total >= self.total_max {
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
        let per_source_max = self.connections.per_source_max;
        if per_source_max == 0 {
            return Ok(());
        }
        let source = source(address);
        let mut open = self.connections.lock();
        let count = open.by_source.entry(source).or_default();
        if *count >= per_source_max {
            return Err(TooMany::FromSource);
        }
        *count += 1;
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

/// So many events in a second from one network, and so many at once after a pause.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
    left: Mutex<TimedLru<IpAddr, Left>>,
}

/// Events that are left, at a time.
#[derive(Clone, Copy, Debug)]
struct Left {
    events: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            left: Mutex::new(TimedLru::new(NETWORKS_MAX)),
        }
    }

    /// Counts an event; false when it is one too many.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let (network, now) = (network(address), Instant::now());
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = match all.get(&network, now.into_std()) {
            Lookup::Hit { value, .. } => {
                let regained = now.duration_since(value.at).as_secs_f64() * self.per_second;
                (value.events + regained).min(self.burst)
            }
            Lookup::Expired | Lookup::Miss => self.burst,
        };
        let allowed = left >= 1.0;
        let events = if allowed { left - 1.0 } else { left };
        // When all would be there again, there is nothing to remember.
        let full_again = Duration::from_secs_f64(self.burst / self.per_second);
        all.insert(network, Left { events, at: now }, Ttl::absolute(full_again), now.into_std());
        allowed
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
        let connections = Arc::new(Connections::new(2, 0));
        let one = connections.enter().unwrap();
        let _two = connections.enter().unwrap();
        assert_eq!(connections.enter().unwrap_err(), TooMany::Total);
        drop(one);
        connections.enter().unwrap();
    }

    #[test]
    fn one_address_takes_no_room_from_another_and_is_forgotten_when_it_leaves() {
        let connections = Arc::new(Connections::new(0, 1));
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
    fn zero_is_without_limit() {
        let connections = Arc::new(Connections::new(0, 0));
        let all: Vec<_> = (0..1000).map(|_| connections.enter().unwrap()).collect();
        assert_eq!(connections.lock().total, all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_through_and_then_the_rate() {
        let rate = Rate::new(2, 10);
        let burst = |address| (0..100).filter(|_| rate.allows(ip(address))).count();
        assert_eq!((burst("192.0.2.1"), burst("192.0.2.255"), burst("192.0.3.1")), (10, 0, 10));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(burst("192.0.2.1"), 6);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(burst("192.0.2.1"), 10);
    }
}
