//! [`Wire`]: a way to a safekeeper that a test can slow down and cut. What it holds back is not lost, as in a network.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// CopyBothResponse without columns: what follows is held back on a slow wire.
const COPY_BOTH: [u8; 8] = [b'W', 0, 0, 0, 7, 0, 0, 0];
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// A connection that was opened before a later round may speak.
    round: u64,
    /// Every connection that enters a copy now may speak.
    fast: bool,
    /// Nothing goes through any more, in neither direction.
    dead: bool,
    /// Connections in which a client asked to read WAL.
    readers: usize,
}

/// A port in front of a safekeeper.
pub(crate) struct Wire {
    pub(crate) port: u16,
    state: watch::Sender<State>,
    _running: JoinSet<()>,
}

impl Wire {
    /// Passes everything on.
    pub(crate) async fn fast(to: u16) -> Self {
        Self::new(to, State { fast: true, ..State::default() }).await
    }

    /// Holds back whatever the safekeeper says once a copy has begun.
    pub(crate) async fn slow(to: u16) -> Self {
        Self::new(to, State::default()).await
    }

    async fn new(to: u16, state: State) -> Self {
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

    /// Lets through what the connections that are open now were told.
    pub(crate) fn deliver(&self) {
        self.state.send_modify(|state| state.round += 1);
    }

    /// From now on holds back what new connections are told.
    pub(crate) fn slow_down(&self) {
        self.state.send_modify(|state| state.fast = false);
    }

    /// Stops everything, without closing anything.
    pub(crate) fn die(&self) {
        self.state.send_modify(|state| state.dead = true);
    }

    /// Waits until somebody asks to read WAL.
    pub(crate) async fn until_read(&self) {
        let mut changes = self.state.subscribe();
        let asked = changes.wait_for(|state| state.readers > 0);
        tokio::time::timeout(crate::support::DEADLINE, asked).await.expect("nobody reads").unwrap();
    }
}

async fn connection(near: TcpStream, to: SocketAddr, state: watch::Sender<State>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let opened = state.borrow().round;
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    // Whichever side closes, the other one sees it.
    tokio::select! {
        () = questions(near_reader, far_writer, &state) => {}
        () = answers(far_reader, near_writer, &state, opened) => {}
    }
}

async fn questions(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &watch::Sender<State>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if chunk[..length].windows(18).any(|said| said == b"START_REPLICATION ") {
            state.send_modify(|state| state.readers += 1);
        }
        alive(state).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &watch::Sender<State>, opened: u64) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        alive(state).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
        if chunk[..length].ends_with(&COPY_BOTH) {
            let mut changes = state.subscribe();
            changes.wait_for(|state| state.fast || state.round > opened).await.unwrap();
        }
    }
}

/// Waits for ever once the wire is dead.
async fn alive(state: &watch::Sender<State>) {
    if state.borrow().dead {
        std::future::pending::<()>().await;
    }
}
