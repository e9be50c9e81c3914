//! Connection limits: open connections of all clients and of each, and new connections of one network.
//!
//! `accept` asks before anything expensive is done for a connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use pq_proto::{ErrorResponse, SqlState};

use super::client_network::source;
use super::rate_limit::NetworkLimit;
use crate::client_facing::{ClientFacing, Response};
use crate::config::RateOptions;

/// Counts open connections against their limits.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    arrivals: NetworkLimit,
}

/// Open connections, at most. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionsMax {
    /// Connections of all clients together.
    pub(crate) total: usize,
    /// Connections of one client: one IPv4 address, or one IPv6 /64.
    pub(crate) per_source: usize,
}

#[derive(Debug, Default)]
struct Open {
    max: ConnectionsMax,
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// The limit that refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("sorry, too many clients already")]
    Total,
    #[error("sorry, too many connections from this address already")]
    FromSource,
    #[error("sorry, too many connections from this network in a short time")]
    FromNetwork,
}

impl ClientFacing for TooMany {
    fn label(&self) -> &'static str {
        match self {
            Self::Total => "too_many",
            Self::FromSource => "too_many_from_address",
            Self::FromNetwork => "too_many_from_network",
        }
    }

    fn response(&self) -> Option<Response> {
        let response = ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, self.to_string());
        Some(Response::Proxy(
            response.with_hint("Close connections that are not needed, or try again later."),
        ))
    }
}

impl Connections {
    pub(crate) fn new(max: ConnectionsMax) -> Self {
        Self { open: Mutex::new(Open { max, ..Open::default() }), arrivals: NetworkLimit::default() }
    }

    /// Changes the limits. Connections that are open stay, even when there are now too many.
    pub(crate) fn set_max(&self, max: ConnectionsMax) {
        self.lock().max = max;
    }

    /// Changes how often one network may connect.
    pub(crate) fn set_arrivals(&self, arrivals: RateOptions) {
        self.arrivals.0.set(arrivals);
    }

    /// Limits how often one network may connect.
    pub(crate) fn with_arrivals(self, arrivals: RateOptions) -> Self {
        Self { arrivals: NetworkLimit::new(arrivals), ..self }
    }

    /// Counts one more connection, whose client is not known yet.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<ConnectionSlot, TooMany> {
        let mut open = self.lock();
        if open.max.total > 0 && open.total >= open.max.total {
            return Err(TooMany::Total);
        }
        open.total += 1;
        Ok(ConnectionSlot { connections: Arc::clone(self), source: None })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

/// A connection that counts as open until this value is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    connections: Arc<Connections>,
    source: Option<IpAddr>,
}

impl ConnectionSlot {
    /// Counts the connection for its client, once the address is known.
    pub(crate) fn set_source(&mut self, address: IpAddr) -> Result<(), TooMany> {
        self.connections.arrivals.try_acquire(address).map_err(|_| TooMany::FromNetwork)?;
        let source = source(address);
        let mut open = self.connections.lock();
        let per_source_max = open.max.per_source;
        let count = open.by_source.get(&source).copied().unwrap_or_default();
        if per_source_max > 0 && count >= per_source_max {
            return Err(TooMany::FromSource);
        }
        // Connections are counted without a limit too: a reload may set one while they are open.
        open.by_source.insert(source, count + 1);
        self.source = Some(source);
        Ok(())
    }
}

impl Drop for ConnectionSlot {
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
    fn closed_connection_makes_room() {
        let connections = Arc::new(Connections::new(ConnectionsMax { total: 2, per_source: 0 }));
        let one = connections.enter().unwrap();
        let _two = connections.enter().unwrap();
        assert_eq!(connections.enter().unwrap_err(), TooMany::Total);
        drop(one);
        connections.enter().unwrap();
    }

    #[test]
    fn connections_are_counted_per_address_until_closed() {
        let connections = Arc::new(Connections::new(ConnectionsMax { total: 0, per_source: 1 }));
        let enter = |address| {
            let mut slot = connections.enter().unwrap();
            slot.set_source(ip(address)).map(|()| slot)
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
    fn changed_limit_counts_but_keeps_open_connections() {
        let connections = Arc::new(Connections::new(ConnectionsMax::default()));
        let enter = || {
            let mut slot = connections.enter()?;
            slot.set_source(ip("192.0.2.1")).map(|()| slot)
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
    fn zero_is_no_limit() {
        let connections = Arc::new(Connections::new(ConnectionsMax::default()));
        let all: Vec<_> = (0..1000).map(|_| connections.enter().unwrap()).collect();
        assert_eq!(connections.lock().total, all.len());
    }

    #[test]
    fn network_limit_refuses_one_network_only() {
        let connections = Arc::new(
            Connections::new(ConnectionsMax::default()).with_arrivals("rate=1,burst=3".parse().unwrap()),
        );
        let enter = |address: &str| connections.enter().unwrap().set_source(ip(address));
        for last in 1..=3 {
            enter(&format!("192.0.2.{last}")).unwrap();
        }
        assert_eq!(enter("192.0.2.4").unwrap_err(), TooMany::FromNetwork);
        enter("192.0.3.1").unwrap();
        let response = TooMany::FromNetwork.response().unwrap().error();
        assert_eq!(response.sqlstate, SqlState::TOO_MANY_CONNECTIONS);
    }
}
