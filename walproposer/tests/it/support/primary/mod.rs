//! [`ScriptedPrimary`]: answers the commands of a walproposer, and streams WAL that the test writes.
//!
//! It records the status updates that it receives. A test can change its answers, stop it, and start it again on the same
//! port.

mod protocol;
mod state;

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wal_types::Lsn;
use walproposer::ConnInfo;

pub(crate) use self::state::{
    PG_VERSION, PrimaryState, SEGMENT_BYTES, SYSTEM_ID, SettingsConnections, builder, builder_on,
};
use super::wait::DEADLINE;

/// A primary under the control of the test. Clones are the same primary.
#[derive(Clone)]
pub(crate) struct ScriptedPrimary {
    shared: Arc<Shared>,
}

struct Shared {
    port: u16,
    state: watch::Sender<PrimaryState>,
    running: Mutex<Option<JoinSet<()>>>,
}

impl ScriptedPrimary {
    /// Starts on a free port with no WAL from `start` on.
    pub(crate) async fn start(start: Lsn) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            port: listener.local_addr().unwrap().port(),
            state: watch::Sender::new(PrimaryState::new(start)),
            running: Mutex::new(None),
        };
        let primary = Self { shared: Arc::new(shared) };
        primary.listen(listener);
        primary
    }

    pub(crate) fn conninfo(&self) -> ConnInfo {
        format!("host=127.0.0.1 port={} user=wp", self.shared.port).parse().unwrap()
    }

    fn listen(&self, listener: TcpListener) {
        let mut running = JoinSet::new();
        let sender = self.shared.state.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(protocol::serve_connection(stream, sender.clone()));
            }
        });
        *self.shared.running.lock().unwrap() = Some(running);
    }

    /// Closes the port and every connection, without a message.
    pub(crate) async fn kill(&self) {
        let running = self.shared.running.lock().unwrap().take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }

    /// Listens again on the same port.
    pub(crate) async fn restart(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.shared.port)).await.unwrap();
        self.listen(listener);
    }

    /// Changes the state.
    pub(crate) fn change(&self, change: impl FnOnce(&mut PrimaryState)) {
        self.shared.state.send_modify(change);
    }

    /// A copy of the state.
    pub(crate) fn read(&self) -> PrimaryState {
        self.shared.state.borrow().clone()
    }

    /// Forgets the status updates and streams of earlier connections.
    pub(crate) fn forget_connections(&self) {
        self.change(|server| {
            server.status = None;
            server.statuses.clear();
            server.streams.clear();
        });
    }

    /// Flushes more WAL, and returns where it ends now.
    pub(crate) fn write(&self, wal: &[u8]) -> Lsn {
        self.change(|server| Arc::make_mut(&mut server.wal).extend_from_slice(wal));
        self.read().flush_lsn()
    }

    /// Waits for a state, and returns it.
    pub(crate) async fn until(&self, what: &str, wanted: impl FnMut(&PrimaryState) -> bool) -> PrimaryState {
        let mut receiver = self.shared.state.subscribe();
        let waited = tokio::time::timeout(DEADLINE, receiver.wait_for(wanted)).await;
        match waited {
            Ok(server) => server.unwrap().clone(),
            Err(_) => panic!("timed out waiting for {what}"),
        }
    }

    /// Waits until everything below `lsn` is acknowledged.
    pub(crate) async fn until_acknowledged(&self, lsn: Lsn) {
        self.until(&format!("{lsn} to be acknowledged"), |server| {
            server.status.is_some_and(|status| status.flush >= lsn)
        })
        .await;
    }
}
