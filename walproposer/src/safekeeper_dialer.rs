//! Dialer of one safekeeper: the task that opens connections to it. Makes no decisions.
//!
//! An open connection belongs to the campaign. While the campaign keeps it, the dialer waits; then it opens the next one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::codec;
use postgres_backend::client::ClientError;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use utils::Backoff;
use wal_types::NodeId;

use crate::config::{Cluster, SafekeeperAddress};
use crate::safekeeper_client;
use crate::safekeeper_link::{LINK_PROTOCOL, SafekeeperLink};

/// Time for the answer to START_WAL_PUSH.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
const DIAL_RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const DIAL_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// An event of a dialer.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) node: NodeId,
    /// Number of the dialer. A safekeeper that is removed and added again gets another dialer, perhaps with another
    /// address, while events of the first may still wait.
    pub(crate) dialer: u64,
    pub(crate) event: DialEvent,
}

/// What happened to a connection.
#[derive(Debug)]
pub(crate) enum DialEvent {
    /// A connection is being opened.
    Connecting,
    /// The connection is open.
    Connected(Box<OpenLink>),
    /// The connection could not be opened, for this reason.
    Failed(String),
}

/// An open connection, and the sign for its dialer that it is kept.
#[derive(Debug)]
pub(crate) struct OpenLink {
    pub(crate) link: SafekeeperLink,
    /// Carries no value: the dialer opens the next connection when it is dropped.
    pub(crate) kept: oneshot::Sender<Infallible>,
}

/// Reason for which a connection could not be opened.
#[derive(Debug, Error)]
enum DialError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no answer to START_WAL_PUSH")]
    PushTimeout,
}

/// Opens one connection after the other, until the campaign aborts the task.
pub(crate) async fn run(
    cluster: Arc<Cluster>,
    address: SafekeeperAddress,
    dialer: u64,
    events: mpsc::Sender<Dialed>,
) {
    let send = async |event| {
        // Fails when the campaign is gone; this task is about to be aborted.
        let _ = events.send(Dialed { node: address.id, dialer, event }).await;
    };
    let mut backoff = Backoff::new(DIAL_RETRY_DELAY_MIN, DIAL_RETRY_DELAY_MAX);
    loop {
        let started = Instant::now();
        send(DialEvent::Connecting).await;

        match open(&cluster, &address).await {
            Ok(link) => {
                let (kept, dropped) = oneshot::channel();
                send(DialEvent::Connected(Box::new(OpenLink { link, kept }))).await;
                let _ = dropped.await;
            }
            Err(error) => {
                tracing::debug!(safekeeper = %address.id, %error, "cannot connect to a safekeeper");
                send(DialEvent::Failed(error.to_string())).await;
            }
        }

        // A safekeeper that accepts connections and ends them at once must not be dialled in a tight loop.
        if started.elapsed() > DIAL_RETRY_DELAY_MAX {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

async fn open(cluster: &Cluster, address: &SafekeeperAddress) -> Result<SafekeeperLink, DialError> {
    let client = safekeeper_client::connect(cluster, address).await?;
    let command = format!(
        "START_WAL_PUSH (proto_version '{}', allow_timeline_creation 'false')",
        codec::version_name(LINK_PROTOCOL)
    );
    let entering = timeout(PUSH_TIMEOUT, client.copy_both(&command));
    Ok(SafekeeperLink::new(entering.await.map_err(|_| DialError::PushTimeout)??))
}
