//! A whole server whose background tasks fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use pq_proto::Text;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use utils::shutdown::Signal;

use super::*;
use crate::config::Flags;
use crate::control_plane::{Access, Compute, LookupContext, NoControlPlane, Reply};
use crate::observe::metrics::ByTask;
use crate::route::EndpointName;

/// Panics of the background task.
const FAILURES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Panics the first few times that the suspender asks for idle limits.
#[derive(Debug, Default)]
struct Panics(AtomicUsize);

impl ControlPlane for Arc<Panics> {
    fn access<'a>(&'a self, wanted: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        NoControlPlane.access(wanted, role)
    }

    fn locate<'a>(&'a self, wanted: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        NoControlPlane.locate(wanted)
    }

    fn wake<'a>(&'a self, wanted: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        NoControlPlane.wake(wanted)
    }

    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) >= FAILURES, "this is what the test is about");
        HashMap::new()
    }
}

/// Connects, and gets the answer that there is no such endpoint.
async fn is_answered(stream: &mut TcpStream) {
    let mut packet = b"\0\x03\0\0user\0app@none\0\0".to_vec();
    packet.splice(0..0, (packet.len() as u32 + 4).to_be_bytes());
    stream.write_all(&packet).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.windows(7).any(|window| window == b"C28000\0"), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn background_task_restarts_unnoticed_by_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let endpoints = directory.path().join("endpoints.toml");
    std::fs::write(&endpoints, "").unwrap();
    let plane = format!("file:{}", endpoints.display());
    let config = Flags::try_parse_from(["proxy", "--control-plane", &plane]).unwrap().validate().unwrap();
    let shutdown = Shutdown::new();
    let mut server = Server::new(&config, &shutdown).unwrap();
    let (panics, metrics) = (Arc::new(Panics::default()), server.services.metrics.clone());
    let cached = CachingControlPlane::new(Box::new(Arc::clone(&panics)), &config.caches, metrics.clone());
    Arc::get_mut(&mut server.services).unwrap().control_plane = Arc::new(cached);

    let listeners = Listeners::open(&config, Vec::new()).await.unwrap();
    let address = listeners.pg_addresses().unwrap()[0];
    let background = server.background_tasks(&listeners);
    let accepting = server.accept(listeners.pg);
    // This one is there all the time.
    let mut early = TcpStream::connect(address).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while panics.0.load(Ordering::Relaxed) <= FAILURES {
        assert!(Instant::now() < deadline, "the task was not restarted");
        is_answered(&mut TcpStream::connect(address).await.unwrap()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    is_answered(&mut early).await;
    let failed = |task| metrics.task_restarts.get_or_create(&ByTask { task }).get();
    assert_eq!((failed("suspend"), failed("accept")), (FAILURES as u64, 0));
    // What comes before the startup packet has another name where there is no TLS.
    let text = server.registry.encode().unwrap();
    assert!(text.contains("phase=\"startup\"") && !text.contains("phase=\"tls\""), "{text}");
    drop(accepting);
    drop(background);
    shutdown.signal(Signal::Terminate);
}
