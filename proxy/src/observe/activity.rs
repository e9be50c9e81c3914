//! [`Activity`]: state of one open connection, for the log, the metrics and `GET /v1/sessions`. Its session writes it, `admin`
//! and `peer_server` read it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::observe::metrics::Metrics;
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
    metrics: Metrics,
}

/// Endpoint and role of a client.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Destination {
    pub(crate) endpoint: String,
    pub(crate) role: String,
}

impl Activity {
    pub(crate) fn new(id: SessionId, peer: Option<SocketAddr>, metrics: Metrics) -> Self {
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
            metrics,
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
        self.bytes_from_client.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.bytes_from_clients.inc_by(bytes as u64);
    }

    pub(crate) fn compute_sent(&self, bytes: usize) {
        self.bytes_to_client.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.bytes_to_clients.inc_by(bytes as u64);
    }

    /// Records the transaction status of the last ReadyForQuery: `I`, `T` or `E`.
    pub(crate) fn transaction(&self, status: u8) {
        self.transaction.store(status, Ordering::Relaxed);
    }

    pub(crate) fn view(&self) -> View {
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
            bytes_from_client: self.bytes_from_client.load(Ordering::Relaxed),
            bytes_to_client: self.bytes_to_client.load(Ordering::Relaxed),
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

/// All open connections.
#[derive(Debug, Default)]
pub(crate) struct Activities {
    open: Mutex<HashMap<SessionId, Arc<Activity>>>,
}

impl Activities {
    /// Lists a connection for as long as the value that is returned lives.
    pub(crate) fn list(self: &Arc<Self>, activity: Arc<Activity>) -> Listed {
        self.open.lock().insert(activity.id, Arc::clone(&activity));
        Listed { activity, activities: Arc::clone(self) }
    }

    /// All of them, the oldest first.
    pub(crate) fn views(&self, draining: bool) -> Vec<View> {
        let view = |activity: &Arc<Activity>| View { draining, ..activity.view() };
        let mut views: Vec<View> = self.open.lock().values().map(view).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.age_ms));
        views
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
        self.activities.open.lock().remove(&self.activity.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_to_uuid_keeps_all_bits() {
        let uuid = SessionId(0x0123_4567_89ab_cdef).to_uuid();
        assert_eq!(uuid.to_string(), "01234567-89ab-8000-8000-00000000cdef");
    }
}
