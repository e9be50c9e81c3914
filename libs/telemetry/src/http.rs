//! [`serve`]: a bounded HTTP/1 server for a small router on the operator's port.
//!
//! It limits what any client of that port can hold: the number of connections, and the time until the head of a request
//! has arrived. The routes are in [`Admin`](crate::Admin) and in the programs. Called by `server` of every program.

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

/// Most connections served at once; further ones wait in the listener's backlog.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Longest time until the head of a request has arrived, counted from the end of the request before. It also ends idle
/// connections.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for requests that are under way when the server ends.
pub const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept. Without a free file descriptor accept fails at once, again and again.
pub const HTTP_ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `end` completes; then requests under way have [`HTTP_DRAIN_TIMEOUT`].
///
/// `end` is the end of a drain and not its beginning, because `/readyz` must answer during the drain. Dropping the future
/// closes all connections at once.
pub async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));

    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            // Cancel safe: an accept that did not return has accepted no connection, and its permit goes back.
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    let served = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HTTP_HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
                    let served = graceful.watch(served);
                    connections.spawn(async move {
                        // The client caused the error: it disconnected, or sent bytes that are no HTTP.
                        let _ = served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection, retrying");
                    tokio::time::sleep(HTTP_ACCEPT_RETRY_DELAY).await;
                }
            },
            // Cancel safe by tokio's documentation. Removes ended connections from the set, which would grow otherwise.
            Some(_) = connections.join_next() => {}
        }
    }

    drop(listener);
    let _ = tokio::time::timeout(HTTP_DRAIN_TIMEOUT, graceful.shutdown()).await;
}

/// Accepts a connection once a permit is free.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Notify, oneshot};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    const DEADLINE: Duration = Duration::from_secs(30);

    struct Server {
        address: SocketAddr,
        end: oneshot::Sender<()>,
        task: JoinHandle<()>,
        /// Lets one request to `/wait` through.
        release: Arc<Notify>,
        /// A request to `/wait` has come.
        arrived: Arc<Notify>,
    }

    async fn server() -> Server {
        let (release, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (released, arrives) = (Arc::clone(&release), Arc::clone(&arrived));
        let wait = async move || {
            arrives.notify_one();
            released.notified().await;
            "waited"
        };
        let fail = async || -> &'static str { panic!("this is what a test is about") };
        let router = Router::new().route("/", get(async || "here")).route("/wait", get(wait));
        let router = router.route("/fail", get(fail));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, router, async move {
            let _ = ended.await;
        }));
        Server { address, end, task, release, arrived }
    }

    async fn request(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        let _ = timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("an answer or an end");
        text
    }

    /// No new connection is accepted meanwhile.
    #[tokio::test]
    async fn serve_answers_requests_under_way_at_the_end() {
        let server = server().await;
        let under_way = request(server.address, "/wait").await;
        server.arrived.notified().await;
        server.end.send(()).unwrap();
        // Once the listener is closed the port refuses.
        let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
        timeout(DEADLINE, refused).await.expect("the listener closes at the end");
        server.release.notify_one();
        assert!(answer(under_way).await.ends_with("waited"));
        timeout(DEADLINE, server.task).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn serve_ends_despite_an_endless_request() {
        let server = server().await;
        let stuck = request(server.address, "/wait").await;
        server.arrived.notified().await;
        let before = Instant::now();
        server.end.send(()).unwrap();
        server.task.await.unwrap();
        assert_eq!(before.elapsed().as_secs(), HTTP_DRAIN_TIMEOUT.as_secs());
        assert_eq!(answer(stuck).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn missing_request_head_ends_the_connection() {
        use std::io::{Read, Write};
        for sent in ["", "GET / HTTP/1.1\r\nHo"] {
            let server = server().await;
            let before = Instant::now();
            let (ended, end) = oneshot::channel();
            // A thread of its own has real time: on the paused clock of this test a limit could pass before the end
            // of the connection is seen.
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(server.address).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.write_all(sent.as_bytes()).unwrap();
                let mut text = String::new();
                let _ = ended.send(stream.read_to_string(&mut text).map(|_| text));
            });
            let text = end.await.unwrap().expect("the connection ends");
            assert!(!text.contains("here"), "{text}");
            assert!(before.elapsed() >= HTTP_HEAD_TIMEOUT, "{sent:?} {:?}", before.elapsed());
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_http_harm_only_themselves() {
        let server = server().await;
        let mut stranger = TcpStream::connect(server.address).await.unwrap();
        stranger.write_all(&[0xff; 100]).await.unwrap();
        answer(stranger).await;
        assert!(answer(request(server.address, "/").await).await.ends_with("here"));
    }

    #[tokio::test]
    async fn panicking_route_ends_only_its_connection() {
        let server = server().await;
        let under_way = request(server.address, "/wait").await;
        server.arrived.notified().await;
        assert_eq!(answer(request(server.address, "/fail").await).await, "");
        server.release.notify_one();
        assert!(answer(under_way).await.ends_with("waited"));
        assert!(answer(request(server.address, "/").await).await.ends_with("here"));
    }

    #[tokio::test]
    async fn connections_over_the_limit_wait() {
        let server = server().await;
        let mut idle = Vec::new();
        for _ in 0..HTTP_CONNECTIONS_MAX {
            idle.push(TcpStream::connect(server.address).await.unwrap());
        }
        let mut waiting = request(server.address, "/").await;
        let mut first_byte = [0];
        // Long enough for an answer that should not come; a slow machine can only hide a fault, not invent one.
        let early = timeout(Duration::from_millis(200), waiting.read(&mut first_byte)).await;
        assert!(early.is_err(), "served although the limit is reached");
        idle.pop();
        assert!(answer(waiting).await.ends_with("here"));
    }
}
