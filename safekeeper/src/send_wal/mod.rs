//! START_REPLICATION: one reader, from its request to the end of the copy.
//!
//! A reader gets WAL that is committed, and waits for more. With `(term='N')` it gets WAL that is durable, as long as N is
//! the term: that is how a proposer fetches what another safekeeper lacks. `request` checks what a reader may ask for,
//! `wal_sender` streams. Called by `session`.

mod chunk;
mod reader_message;
mod request;
mod wal_sender;

use postgres_backend::{CopyBoth, CopyEnd, Io};
use utils::Shutdown;

use crate::metrics::Metrics;
pub(crate) use request::{CheckedRequest, ReplicationStart};
use wal_sender::WalSender;

/// Sends WAL to a reader until the copy ends.
pub(crate) async fn run<S: Io>(
    request: CheckedRequest,
    stream: CopyBoth<S>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> CopyEnd<S> {
    let CopyBoth { mut reader, mut writer } = stream;
    let mut sender = WalSender::new(request, metrics);
    let (received, sent) = Box::pin(sender.run(&mut reader, &mut writer, shutdown)).await;
    CopyEnd { stream: CopyBoth { reader, writer }, received, sent }
}
