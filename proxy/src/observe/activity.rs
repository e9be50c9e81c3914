//! [`Activity`]: state of one open connection, for the log, the metrics and `GET /v1/sessions`. Its session writes it, `admin`
//! and `peer_server` read it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Add;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::observe::phases::Phases;

/// Number of a session, in the log and in `/v1/sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

impl SessionId {
    /// The number as a UUID of version 8 (RFC 9562, section 5.8), for control planes that expect a UUID. The number's
    /// upper 48 bits come first and its lower 16 bits last.
    pub(crate) fn to_uuid(self) -> Uuid {
        let bytes = u128::from(self.0 >> 16) << 80 | u128::from(self.0 & 0xffff);
        uuid::Builder::from_custom_bytes(bytes.to_be_bytes()).into_uuid()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// TLS and startup packet.
    Handshake,
    /// Route and password.
    Authenticating,
    /// Looking for the compute, or waking it.
    Connecting,
    /// Passing bytes.
    Passing,
}

const STAGES: [Stage; 4] = [Stage::Handshake, Stage::Authenticating, Stage::Connecting, Stage::Passing];

/// One connection. Written by its session alone.
#[derive(Debug)]
pub(crate) struct Activity {
    pub(crate) id: SessionId,
    peer: Option<SocketAddr>,
    started: Instant,
    stage: AtomicU8,
    destination: OnceLock<Destination>,
    bytes_from_client: AtomicU64,
    bytes_to_client: AtomicU64,
    transaction: AtomicU8,
    pub(crate) phases: Arc<Phases>,
}

/// Endpoint and role of a client.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Destination {
    pub(crate) endpoint: String,
    pub(crate) role: String,
}

impl Activity {
    pub(crate) fn new(id: SessionId, peer: Option<SocketAddr>) -> Self {
        Self {
            id,
            peer,
            started: Instant::now(),
            stage: AtomicU8::new(Stage::Handshake as u8),
            destination: OnceLock::new(),
            bytes_from_client: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
            transaction: AtomicU8::new(0),
            phases: Arc::default(),
        }
    }

    /// IP address of the client, if it is known.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }

    /// Address and port of the client, if they are known.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(crate) fn reached(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Sets endpoint and role, once: a second call changes nothing.
    pub(crate) fn set_destination(&self, destination: Destination) {
        let _ = self.destination.set(destination);
    }

    pub(crate) fn destination(&self) -> Option<&Destination> {
        self.destination.get()
    }

    pub(crate) fn client_sent(&self, bytes: usize) {
        count(&self.bytes_from_client, bytes);
    }

    pub(crate) fn compute_sent(&self, bytes: usize) {
        count(&self.bytes_to_client, bytes);
    }

    /// Records the transaction status of the last ReadyForQuery: `I`, `T` or `E`.
    pub(crate) fn transaction(&self, status: u8) {
        self.transaction.store(status, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            from_clients: self.bytes_from_client.load(Ordering::Relaxed),
            to_clients: self.bytes_to_client.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn view(&self) -> View {
        let Traffic { from_clients: bytes_from_client, to_clients: bytes_to_client } = self.traffic();
        View {
            pid: std::process::id(),
            draining: false,
            id: self.id.to_string(),
            peer: self.peer.map(|peer| peer.to_string()),
            state: STAGES.get(usize::from(self.stage.load(Ordering::Relaxed))).copied(),
            destination: self.destination.get().cloned(),
            transaction: match self.transaction.load(Ordering::Relaxed) {
                b'I' => Some("none"),
                b'T' => Some("open"),
                b'E' => Some("failed"),
                _ => None,
            },
            age_ms: self.started.elapsed().as_millis() as u64,
            phases_ms: self
                .phases
                .spent()
                .iter()
                .map(|(phase, time)| (phase.name(), milliseconds(*time)))
                .collect(),
            bytes_from_client,
            bytes_to_client,
        }
    }
}

/// Counts bytes in a counter that only the caller writes. Cores share no counter that every transaction writes: totals
/// are summed up when they are read.
fn count(counter: &AtomicU64, bytes: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(bytes as u64), Ordering::Relaxed);
}

/// Bytes that were passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) from_clients: u64,
    pub(crate) to_clients: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            from_clients: self.from_clients.wrapping_add(other.from_clients),
            to_clients: self.to_clients.wrapping_add(other.to_clients),
        }
    }
}

/// Milliseconds, rounded to a tenth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// State of one connection, as operators see it.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    id: String,
    /// Process id of the proxy that has the connection.
    pid: u32,
    /// Whether that process drains.
    draining: bool,
    peer: Option<String>,
    state: Option<Stage>,
    #[serde(flatten)]
    destination: Option<Destination>,
    /// Transaction status at the last ReadyForQuery; a query may be running.
    transaction: Option<&'static str>,
    pub(crate) age_ms: u64,
    /// Milliseconds by phase of the login.
    phases_ms: BTreeMap<&'static str, f64>,
    pub(crate) bytes_from_client: u64,
    pub(crate) bytes_to_client: u64,
}

/// All open connections, and the traffic of the others.
#[derive(Debug, Default)]
pub(crate) struct Activities(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    open: HashMap<SessionId, Arc<Activity>>,
    /// Bytes of the connections that have ended.
    ended: Traffic,
}

impl Activities {
    /// Lists a connection for as long as the value that is returned lives.
    pub(crate) fn list(self: &Arc<Self>, activity: Arc<Activity>) -> Listed {
        self.0.lock().open.insert(activity.id, Arc::clone(&activity));
        Listed { activity, activities: Arc::clone(self) }
    }

    /// All of them, the oldest first.
    pub(crate) fn views(&self, draining: bool) -> Vec<View> {
        let view = |activity: &Arc<Activity>| View { draining, ..activity.view() };
        let mut views: Vec<View> = self.0.lock().open.values().map(view).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.age_ms));
        views
    }

    /// Bytes of all connections since the start, those of ended ones included.
    pub(crate) fn traffic(&self) -> Traffic {
        let connections = self.0.lock();
        let open = connections.open.values().map(|activity| activity.traffic());
        open.fold(connections.ended, Traffic::add)
    }
}

/// A connection in the list, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) activity: Arc<Activity>,
    activities: Arc<Activities>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut connections = self.activities.0.lock();
        connections.open.remove(&self.activity.id);
        connections.ended = connections.ended + self.activity.traffic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter never falls: not when a connection ends, and not when another one begins.
    #[test]
    fn activities_keep_the_traffic_of_ended_connections() {
        let activities = Arc::new(Activities::default());
        let list = |id| activities.list(Arc::new(Activity::new(SessionId(id), None)));
        let (one, other) = (list(1), list(2));
        one.activity.client_sent(3);
        other.activity.client_sent(40);
        other.activity.compute_sent(500);
        let traffic = Traffic { from_clients: 43, to_clients: 500 };
        assert_eq!(activities.traffic(), traffic);
        drop(other);
        assert_eq!(activities.traffic(), traffic);
        one.activity.client_sent(1);
        assert_eq!(activities.traffic().from_clients, 44);
    }

    #[test]
    fn session_id_to_uuid_keeps_all_bits() {
        let uuid = SessionId(0x0123_4567_89ab_cdef).to_uuid();
        assert_eq!(uuid.to_string(), "01234567-89ab-8000-8000-00000000cdef");
    }
}
