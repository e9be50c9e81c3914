//! A whole server whose background tasks fail, and whose lookups block.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clap::Parser;
use parking_lot::Mutex;
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

/// Blocks the thread that asks, until the test lets it go.
#[derive(Debug)]
struct Blocks {
    asked: mpsc::Sender<()>,
    let_go: Mutex<mpsc::Receiver<()>>,
}

impl ControlPlane for Blocks {
    fn access<'a>(&'a self, wanted: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        self.asked.send(()).unwrap();
        let _ = self.let_go.lock().recv();
        NoControlPlane.access(wanted, role)
    }

    fn locate<'a>(&'a self, wanted: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        NoControlPlane.locate(wanted)
    }

    fn wake<'a>(&'a self, wanted: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        NoControlPlane.wake(wanted)
    }

    fn is_in_memory(&self) -> bool {
        false
    }
}

/// A server with this control plane, and its listeners.
async fn server(
    flags: &[&str],
    plane: Box<dyn ControlPlane>,
    shutdown: &Shutdown,
    directory: &Path,
) -> (Server, Listeners) {
    let endpoints = directory.join("endpoints.toml");
    std::fs::write(&endpoints, "").unwrap();
    let file = format!("file:{}", endpoints.display());
    let flags = [&["proxy", "--control-plane", &file], flags].concat();
    let config = Flags::try_parse_from(flags).unwrap().validate().unwrap();
    let mut server = Server::new(&config, shutdown).unwrap();
    let metrics = server.services.metrics.clone();
    let cached = Arc::new(CachingControlPlane::new(plane, &config.caches, metrics.clone()));
    let services = Arc::get_mut(&mut server.services).unwrap();
    services.auth = Authenticator::new(
        Arc::clone(&cached),
        auth::mock_secret::find(&config).unwrap(),
        config.client_auth,
        metrics,
    );
    services.control_plane = cached;
    (server, Listeners::open(&config, Vec::new()).await.unwrap())
}

/// The only thread for sessions goes on while a lookup blocks another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_lookup_delays_no_session() {
    let directory = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let ((asked, was_asked), (let_go, released)) = (mpsc::channel(), mpsc::channel());
    let plane = Box::new(Blocks { asked, let_go: Mutex::new(released) });
    let (server, listeners) = server(&["--threads", "1"], plane, &shutdown, directory.path()).await;
    let address = listeners.pg_addresses().unwrap()[0];
    let accepting = server.accept(listeners.pg);

    let mut blocked = TcpStream::connect(address).await.unwrap();
    let blocked = tokio::spawn(async move { is_answered(&mut blocked).await });
    tokio::task::spawn_blocking(move || was_asked.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    let mut other = TcpStream::connect(address).await.unwrap();
    other.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, other.read_u8()).await.unwrap().unwrap();
    assert_eq!(answer, b'N');
    let_go.send(()).unwrap();
    blocked.await.unwrap();
    drop(accepting);
}

#[tokio::test]
async fn background_task_restarts_unnoticed_by_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let (panics, shutdown) = (Arc::new(Panics::default()), Shutdown::new());
    let (server, listeners) = server(&[], Box::new(Arc::clone(&panics)), &shutdown, directory.path()).await;
    let metrics = server.services.metrics.clone();

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
