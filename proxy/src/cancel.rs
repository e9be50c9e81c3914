//! Cancel requests: every client has a key of the proxy's own, and whoever shows it cancels what runs for that client
//! at its compute (PostgreSQL documentation, "Canceling Requests in Progress"). The keys are those of this process; where
//! others share its ports, these are asked for keys that are not known here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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
use crate::observe::metrics::{How, Metrics};
use crate::peers::Peers;

/// Bytes of the secret in protocol 3.0, which knows no other length.
const SHORT_SECRET_BYTES: usize = 4;
/// From protocol 3.2 on: nobody guesses it.
const LONG_SECRET_BYTES: usize = 32;
/// Requests of one network: one in this time, and so many at once after a pause.
const REQUEST_INTERVAL: Duration = Duration::from_millis(10);
const REQUESTS_BURST: u32 = 1000;
/// From connecting to the compute until it has closed that connection, which it does when the signal is sent.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys of the clients that are connected.
#[derive(Debug)]
pub(crate) struct Cancels {
    known: Mutex<HashMap<i32, Known>>,
    rate: NetworkLimit,
    /// Processes that may have the session.
    peers: OnceLock<Peers>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Known {
    secret: Bytes,
    target: Arc<Target>,
}

/// A backend, and how to reach it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) compute: Arc<Compute>,
    pub(crate) pid: i32,
    pub(crate) key: Bytes,
}

/// A key that is good for as long as this lives.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) pid: i32,
    pub(crate) key: Bytes,
    cancels: Arc<Cancels>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.cancels.lock().remove(&self.pid);
    }
}

impl Cancels {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let rate = RateOptions { rate: Some(Rate::new(REQUEST_INTERVAL, REQUESTS_BURST)) };
        Self { known: Mutex::default(), rate: NetworkLimit::new(rate), peers: OnceLock::new(), metrics }
    }

    /// Asks these for keys that are not known here; to be told once.
    pub(crate) fn ask_too(&self, peers: Peers) {
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
        let mut known = self.lock();
        loop {
            // Some clients keep it as an unsigned, others as a signed number: positive is both.
            let pid = random.random_range(1..=i32::MAX);
            if let Entry::Vacant(free) = known.entry(pid) {
                free.insert(Known { secret: key.clone(), target });
                return Registered { pid, key, cancels: Arc::clone(self) };
            }
        }
    }

    /// Passes a cancel request on, when its key is one of ours. A wrong one is met with silence, like a right one.
    pub(crate) async fn pass_on(&self, dial: &impl Dial, peer: Option<SocketAddr>, pid: i32, key: &[u8]) {
        let is_allowed = peer.is_none_or(|peer| self.rate.take(peer.ip()).is_ok());
        let how = match (self.find(pid, key), self.peers.get()) {
            _ if !is_allowed => "too_many",
            (Some(target), _) => pass_on_to(&target, dial).await,
            (None, Some(peers)) if peers.cancel(pid, key).await => "passed_to_peer",
            (None, _) => "wrong_key",
        };
        self.count(how);
    }

    /// A request that came to another process. True when its key is one of ours.
    pub(crate) async fn pass_on_here(&self, dial: &impl Dial, pid: i32, key: &[u8]) -> bool {
        let Some(target) = self.find(pid, key) else { return false };
        self.count(pass_on_to(&target, dial).await);
        true
    }

    fn count(&self, how: &'static str) {
        tracing::debug!(how, "cancel request");
        self.metrics.cancels.get_or_create(&How { how }).inc();
    }

    fn find(&self, pid: i32, key: &[u8]) -> Option<Arc<Target>> {
        let known = self.lock();
        let known = known.get(&pid)?;
        bool::from(known.secret[..].ct_eq(key)).then(|| Arc::clone(&known.target))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Known>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pass_on_to(target: &Target, dial: &impl Dial) -> &'static str {
    match target.cancel(dial).await {
        Ok(()) => "passed_on",
        Err(error) => {
            tracing::warn!(address = %target.compute.address, %error, "a cancel request did not arrive");
            "failed"
        }
    }
}

impl Target {
    /// Asks the compute to cancel what this backend does, over TLS where its sessions use it.
    pub(crate) async fn cancel(&self, dial: &impl Dial) -> Result<(), ComputeError> {
        let cancel = Box::pin(async {
            let stream = dial.dial(&self.compute.address).await.map_err(ComputeError::Unreachable)?;
            let mut stream = compute::encrypt(dial, stream, &self.compute).await?;
            let mut request = BytesMut::new();
            let packet = StartupPacket::Cancel { pid: self.pid, key: self.key.clone() };
            packet.encode(&mut request).map_err(|error| ComputeError::Protocol(error.to_string()))?;
            stream.write_all(&request).await.map_err(ComputeError::Lost)?;
            stream.flush().await.map_err(ComputeError::Lost)?;
            // PostgreSQL closes when it has sent the signal. How it closes does not matter.
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
    fn only_the_whole_key_of_a_connected_client_is_good() {
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
        assert!(cancels.lock().is_empty());
    }

    /// Counts, and is never there.
    struct Nobody(AtomicU32);

    impl Dial for Nobody {
        type Stream = tokio::net::TcpStream;

        async fn dial(&self, _: &crate::control_plane::Address) -> std::io::Result<Self::Stream> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(std::io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_asks_too_often_reaches_no_compute_and_others_do() {
        let cancels = Arc::new(Cancels::new(Metrics::new(&mut Default::default())));
        let registered = cancels.register(target(), ProtocolVersion::V3_2, &mut StdRng::seed_from_u64(1));
        let dial = Nobody(AtomicU32::new(0));
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
