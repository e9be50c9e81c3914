//! [`serve`]: a bounded HTTP/1 server for a small router on a port of the operator's.
//!
//! It bounds what a stranger on that port can hold: connections, and the time in which a request's head must come.
//! No routes are in here; see [`Admin`](crate::Admin). Called by `server` of every binary.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Connections served at once; the next ones wait in the listener's backlog.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Time for the head of a request, counted from the end of the one before: it also ends idle connections.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the requests under way when the server ends.
pub const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept: with no file descriptor left it fails at once, again and again.
pub const HTTP_ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `end` completes; then requests under way have [`HTTP_DRAIN_TIMEOUT`].
///
/// `/readyz` has to tell others that the process drains, so `end` is the end of the drain and not its beginning.
/// Dropping the future closes everything at once.
pub async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            // Cancel safe: an accept that did not return has taken no connection, and a permit goes back.
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    let served = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HTTP_HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
                    let served = graceful.watch(served);
                    connections.spawn(async move {
                        // An error is the client's: it went away, or spoke something else than HTTP.
                        let _ = served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(HTTP_ACCEPT_RETRY_DELAY).await;
                }
            },
            // Cancel safe, as tokio says of it. Reaps, or ended connections would pile up.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(HTTP_DRAIN_TIMEOUT, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}
