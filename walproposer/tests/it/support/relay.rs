//! [`Relay`]: a port in front of a safekeeper that a test can slow down and cut. Bytes that it holds back are not lost, as
//! in a network.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wait::DEADLINE;

/// CopyBothResponse without columns: a slow relay holds back the bytes behind it.
const COPY_BOTH: [u8; 8] = [b'W', 0, 0, 0, 7, 0, 0, 0];
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default)]
struct RelayState {
    /// The answers on a connection that was opened in an earlier round are passed on.
    round: u64,
    /// The answers on every connection that enters a copy now are passed on.
    fast: bool,
    /// Nothing is passed on any more, in either direction.
    cut: bool,
    /// Number of requests to read WAL.
    readers: usize,
}

/// A port in front of a safekeeper.
pub(crate) struct Relay {
    pub(crate) port: u16,
    state: watch::Sender<RelayState>,
    _running: JoinSet<()>,
}

impl Relay {
    /// Passes everything on.
    pub(crate) async fn fast(to: u16) -> Self {
        Self::new(to, RelayState { fast: true, ..RelayState::default() }).await
    }

    /// Holds back all answers of the safekeeper behind the beginning of a copy.
    pub(crate) async fn slow(to: u16) -> Self {
        Self::new(to, RelayState::default()).await
    }

    async fn new(to: u16, state: RelayState) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(state);
        let mut running = JoinSet::new();
        let shared = state.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                connections.spawn(connection(near, SocketAddr::from(([127, 0, 0, 1], to)), shared.clone()));
            }
        });
        Self { port, state, _running: running }
    }

    /// Passes on the answers on all connections that are open now.
    pub(crate) fn deliver(&self) {
        self.state.send_modify(|state| state.round += 1);
    }

    /// From now on holds back the answers on new connections.
    pub(crate) fn slow_down(&self) {
        self.state.send_modify(|state| state.fast = false);
    }

    /// Stops all traffic without closing a connection.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Waits for a request to read WAL.
    pub(crate) async fn until_wal_requested(&self) {
        let mut changes = self.state.subscribe();
        let requested = changes.wait_for(|state| state.readers > 0);
        tokio::time::timeout(DEADLINE, requested).await.expect("no request to read WAL").unwrap();
    }
}

async fn connection(near: TcpStream, to: SocketAddr, state: watch::Sender<RelayState>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let opened = state.borrow().round;
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    // When one side closes, the other is closed too.
    tokio::select! {
        () = client_to_safekeeper(near_reader, far_writer, &state) => {}
        () = safekeeper_to_client(far_reader, near_writer, &state, opened) => {}
    }
}

async fn client_to_safekeeper(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &watch::Sender<RelayState>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if chunk[..length].windows(18).any(|window| window == b"START_REPLICATION ") {
            state.send_modify(|state| state.readers += 1);
        }
        pause_if_cut(state).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

async fn safekeeper_to_client(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &watch::Sender<RelayState>,
    opened: u64,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        pause_if_cut(state).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
        if chunk[..length].ends_with(&COPY_BOTH) {
            let mut changes = state.subscribe();
            changes.wait_for(|state| state.fast || state.round > opened).await.unwrap();
        }
    }
}

/// Never returns once the relay is cut.
async fn pause_if_cut(state: &watch::Sender<RelayState>) {
    if state.borrow().cut {
        std::future::pending::<()>().await;
    }
}
