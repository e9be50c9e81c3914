//! Cancel requests: gives each client a key of the proxy's own, and passes a request with that key on to the client's compute
//! (PostgreSQL documentation, "Canceling Requests in Progress").
//!
//! Each process has its own keys. Peer processes that share the ports are asked for unknown ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pq_proto::{Encode, ProtocolVersion, StartupPacket};
use rand::{Rng, RngExt};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use utils::leaky_bucket::Rate;

use crate::compute::{self, ComputeError, Dial};
use crate::config::RateOptions;
use crate::control_plane::Compute;
use crate::limits::rate_limit::NetworkLimit;
use crate::observe::metrics::{ByResult, Metrics};
use crate::peers::Peers;

/// Length of the secret in protocol 3.0, which allows no other, in bytes.
const SHORT_SECRET_BYTES: usize = 4;
/// Length of the secret from protocol 3.2 on, in bytes: too long to guess.
const LONG_SECRET_BYTES: usize = 32;
/// Cancel requests of one network: one in this interval, and [`REQUESTS_BURST`] at once after a pause.
const REQUEST_INTERVAL: Duration = Duration::from_millis(10);
const REQUESTS_BURST: u32 = 1000;
/// Time limit of a cancel request to a compute, which closes the connection when it has sent the signal.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// The keys of all connected clients.
#[derive(Debug)]
pub(crate) struct Cancels {
    known: Mutex<HashMap<i32, Known>>,
    rate: NetworkLimit,
    /// Peer processes, which may have the session.
    peers: OnceLock<Peers>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Known {
    secret: Bytes,
    target: Arc<Target>,
}

/// A backend of a compute, and its cancel key there.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) compute: Arc<Compute>,
    pub(crate) pid: i32,
    pub(crate) key: Bytes,
}

/// A client's key. It is valid until this value is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) pid: i32,
    pub(crate) key: Bytes,
    cancels: Arc<Cancels>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.cancels.known.lock().remove(&self.pid);
    }
}

impl Cancels {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let rate = RateOptions { rate: Some(Rate::new(REQUEST_INTERVAL, REQUESTS_BURST)) };
        Self { known: Mutex::default(), rate: NetworkLimit::new(rate), peers: OnceLock::new(), metrics }
    }

    /// Sets the peer processes that are asked for unknown keys. To be called once.
    pub(crate) fn set_peers(&self, peers: Peers) {
        let _ = self.peers.set(peers);
    }

    /// Makes a key for a client of this backend.
    pub(crate) fn register(
        self: &Arc<Self>,
        target: Arc<Target>,
        version: ProtocolVersion,
        random: &mut (impl Rng + Send),
    ) -> Registered {
        let long = version >= ProtocolVersion::V3_2;
        let mut key = vec![0; if long { LONG_SECRET_BYTES } else { SHORT_SECRET_BYTES }];
        random.fill_bytes(&mut key);
        let key = Bytes::from(key);
        let mut known = self.known.lock();
        loop {
            // Clients store it as a signed or an unsigned number; a positive one is the same in both.
            let pid = random.random_range(1..=i32::MAX);
            if let Entry::Vacant(free) = known.entry(pid) {
                free.insert(Known { secret: key.clone(), target });
                return Registered { pid, key, cancels: Arc::clone(self) };
            }
        }
    }

    /// Passes a cancel request on when its key is known. The client gets no answer in either case, as from PostgreSQL.
    pub(crate) async fn pass_on(&self, dial: &impl Dial, peer: Option<SocketAddr>, pid: i32, key: &[u8]) {
        let is_allowed = peer.is_none_or(|peer| self.rate.try_acquire(peer.ip()).is_ok());
        let result = match (self.find(pid, key), self.peers.get()) {
            _ if !is_allowed => "too_many",
            (Some(target), _) => pass_on_to(&target, dial).await,
            (None, Some(peers)) if peers.cancel(pid, key).await => "passed_to_peer",
            (None, _) => "wrong_key",
        };
        self.count(result);
    }

    /// Passes on a request that a peer process received. Returns whether the key is one of this process.
    pub(crate) async fn pass_on_here(&self, dial: &impl Dial, pid: i32, key: &[u8]) -> bool {
        let Some(target) = self.find(pid, key) else { return false };
        self.count(pass_on_to(&target, dial).await);
        true
    }

    fn count(&self, result: &'static str) {
        tracing::debug!(result, "cancel request");
        self.metrics.cancels.get_or_create(&ByResult { result }).inc();
    }

    fn find(&self, pid: i32, key: &[u8]) -> Option<Arc<Target>> {
        let known = self.known.lock();
        let known = known.get(&pid)?;
        bool::from(known.secret[..].ct_eq(key)).then(|| Arc::clone(&known.target))
    }
}

async fn pass_on_to(target: &Target, dial: &impl Dial) -> &'static str {
    match target.cancel(dial).await {
        Ok(()) => "passed_on",
        Err(error) => {
            tracing::warn!(address = %target.compute.address, %error, "cannot pass a cancel request on");
            "failed"
        }
    }
}

impl Target {
    /// Asks the compute to cancel what this backend runs, over TLS where its sessions use it.
    pub(crate) async fn cancel(&self, dial: &impl Dial) -> Result<(), ComputeError> {
        let cancel = Box::pin(async {
            let stream = dial.dial(&self.compute.address).await.map_err(ComputeError::Unreachable)?;
            let mut stream = compute::encrypt(dial, stream, &self.compute).await?;
            let mut request = BytesMut::new();
            let packet = StartupPacket::Cancel { pid: self.pid, key: self.key.clone() };
            packet.encode(&mut request).map_err(|error| ComputeError::Protocol(error.to_string()))?;
            stream.write_all(&request).await.map_err(ComputeError::Lost)?;
            stream.flush().await.map_err(ComputeError::Lost)?;
            // PostgreSQL closes the connection when it has sent the signal. How it closes does not matter.
            let _ = stream.read(&mut [0]).await;
            Ok(())
        });
        let late = |_| Err(ComputeError::Lost(std::io::ErrorKind::TimedOut.into()));
        timeout(CANCEL_TIMEOUT, cancel).await.unwrap_or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn target() -> Arc<Target> {
        let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
        Arc::new(Target { compute: Arc::new(compute), pid: 7, key: Bytes::from_static(b"abcd") })
    }

    #[test]
    fn cancel_needs_the_whole_key_of_a_client() {
        let cancels = Arc::new(Cancels::new(Metrics::new(&mut Default::default())));
        for (version, bytes) in
            [(ProtocolVersion::V3_0, 4), (ProtocolVersion(3 << 16 | 1), 4), (ProtocolVersion::V3_2, 32)]
        {
            let registered = cancels.register(target(), version, &mut StdRng::seed_from_u64(1));
            let (pid, key) = (registered.pid, registered.key.to_vec());
            assert_eq!(key.len(), bytes);
            assert_eq!(cancels.find(pid, &key).unwrap().pid, 7);
            let mut wrong = key.clone();
            wrong[3] ^= 1;
            let longer = [&key[..], &[0]].concat();
            for (pid, key) in [
                (pid, &wrong[..]),
                (pid, &key[..3]),
                (pid, b""),
                (pid, &longer),
                (pid.wrapping_add(1), &key[..]),
            ] {
                assert!(cancels.find(pid, key).is_none());
            }
            drop(registered);
            assert!(cancels.find(pid, &key).is_none());
        }
        assert!(cancels.known.lock().is_empty());
    }

    /// Counts connections and refuses each.
    struct Refusing(AtomicU32);

    impl Dial for Refusing {
        type Stream = tokio::net::TcpStream;

        async fn dial(&self, _: &crate::control_plane::Address) -> std::io::Result<Self::Stream> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(std::io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cancel_limit_stops_one_network_only() {
        let cancels = Arc::new(Cancels::new(Metrics::new(&mut Default::default())));
        let registered = cancels.register(target(), ProtocolVersion::V3_2, &mut StdRng::seed_from_u64(1));
        let dial = Refusing(AtomicU32::new(0));
        let ask = async |peer: &str, count: u32| {
            for _ in 0..count {
                let peer = Some(peer.parse().unwrap());
                cancels.pass_on(&dial, peer, registered.pid, &registered.key).await;
            }
            dial.0.swap(0, Ordering::Relaxed)
        };
        assert_eq!(ask("192.0.2.1:1", REQUESTS_BURST + 50).await, REQUESTS_BURST);
        assert_eq!(ask("192.0.2.200:1", 1).await, 0);
        assert_eq!(ask("198.51.100.1:1", 1).await, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask("192.0.2.1:1", REQUESTS_BURST).await, 100);
    }
}
