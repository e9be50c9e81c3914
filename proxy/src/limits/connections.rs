//! Connections at the same time, of all clients and of each. Decided before anything expensive. Called by `accept`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pq_proto::{ErrorResponse, SqlState};

use super::client_network::source;
use super::rate_limit::NetworkLimit;
use crate::config::RateOptions;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
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
}
