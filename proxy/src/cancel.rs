//! Cancel requests: every client has a key of the proxy's own, and whoever shows it cancels what runs for that client
//! at its compute (PostgreSQL documentation, "Canceling Requests in Progress"). The keys are those of this process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pq_proto::{Encode, StartupPacket};
use rand::{Rng, RngExt};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::compute::{self, ComputeError, Dial};
use crate::control_plane::Compute;
use crate::metrics::{How, Metrics};

/// Bytes of the secret in protocol 3.0.
const SECRET_BYTES: usize = 4;
/// From connecting to the compute until it has closed that connection, which it does when the signal is sent.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys of the clients that are connected.
#[derive(Debug)]
pub(crate) struct Cancels {
    known: Mutex<HashMap<i32, Known>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Known {
    secret: [u8; SECRET_BYTES],
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
        Self { known: Mutex::default(), metrics }
    }

    /// Makes a key for a client of this backend.
    pub(crate) fn register(
        self: &Arc<Self>,
        target: Arc<Target>,
        random: &mut (impl Rng + Send),
    ) -> Registered {
        let mut secret = [0; SECRET_BYTES];
        random.fill_bytes(&mut secret);
        let mut known = self.lock();
        loop {
            // Some clients keep it as an unsigned, others as a signed number: positive is both.
            let pid = random.random_range(1..=i32::MAX);
            if let Entry::Vacant(free) = known.entry(pid) {
                free.insert(Known { secret, target });
                let key = Bytes::copy_from_slice(&secret);
                return Registered { pid, key, cancels: Arc::clone(self) };
            }
        }
    }

    /// Passes a cancel request on, when its key is one of ours. A wrong one is met with silence, like a right one.
    pub(crate) async fn pass_on(&self, dial: &impl Dial, pid: i32, key: &[u8]) {
        let how = match self.find(pid, key) {
            None => "wrong_key",
            Some(target) => match target.cancel(dial).await {
                Ok(()) => "passed_on",
                Err(error) => {
                    tracing::warn!(address = %target.compute.address, %error, "a cancel request did not arrive");
                    "failed"
                }
            },
        };
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

impl Target {
    /// Asks the compute to cancel what this backend does, over TLS where its sessions use it.
    pub(crate) async fn cancel(&self, dial: &impl Dial) -> Result<(), ComputeError> {
        let cancel = Box::pin(async {
            let stream = dial.dial(&self.compute.address).await.map_err(ComputeError::Unreachable)?;
            let mut stream = compute::encrypt(stream, &self.compute).await?;
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
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn only_the_whole_key_of_a_connected_client_is_good() {
        let cancels = Arc::new(Cancels::new(Metrics::new(&mut Default::default())));
        let address = "h:1".parse().unwrap();
        let compute = Arc::new(Compute { address, tls: None, database: None });
        let target = Arc::new(Target { compute, pid: 7, key: Bytes::from_static(b"abcd") });
        let registered = cancels.register(target, &mut StdRng::seed_from_u64(1));
        let (pid, key) = (registered.pid, registered.key.to_vec());
        assert_eq!(cancels.find(pid, &key).unwrap().pid, 7);
        let mut wrong = key.clone();
        wrong[3] ^= 1;
        for (pid, key) in [(pid, &wrong[..]), (pid, &key[..3]), (pid, b""), (pid.wrapping_add(1), &key[..])] {
            assert!(cancels.find(pid, key).is_none());
        }
        drop(registered);
        assert!(cancels.find(pid, &key).is_none());
    }
}
