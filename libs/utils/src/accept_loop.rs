//! Accept loop: takes connections from a listener until it is told to stop, with pauses after a failed accept.
//!
//! The caller does admission and limits, and spawns the tasks that serve connections. The listener is a TCP or a Unix
//! socket. Called by the safekeeper, and by the proxy
//! for its clients, its peer processes and its management port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::Backoff;

/// Shortest pause after a failed accept. Without a free file descriptor accept fails at once, again and again.
pub const ACCEPT_RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
/// Longest pause after failed accepts in a row.
pub const ACCEPT_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// A listening socket.
pub trait Listener {
    /// One of its connections.
    type Stream;
    /// Where a connection comes from.
    type Address;

    /// Accepts one connection. Must be cancel safe: an accept that did not return has taken no connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Address)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Address = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Address = tokio::net::unix::SocketAddr;

    async fn accept(&self) -> io::Result<(UnixStream, Self::Address)> {
        Self::accept(self).await
    }
}

/// Hands each accepted connection to `on_connection`, which must return at once (it spawns a task), until `stop` is ready.
/// A failed accept is handed to `on_error`, for the log; the next accept follows after a pause that grows with each
/// failure in a row.
pub async fn accept_loop<L: Listener>(
    listener: &L,
    stop: impl Future<Output = ()>,
    mut on_connection: impl FnMut(L::Stream, L::Address),
    mut on_error: impl FnMut(io::Error),
) {
    let mut backoff = Backoff::new(ACCEPT_RETRY_DELAY_MIN, ACCEPT_RETRY_DELAY_MAX);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            // Cancel safe: an accept that did not return has taken no connection.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                backoff.reset();
                on_connection(stream, address);
            }
            Err(error) => {
                on_error(error);
                tokio::select! {
                    () = &mut stop => return,
                    // Cancel safe: a pause holds nothing.
                    () = backoff.wait() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;

    use tokio::sync::Notify;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Fails so many times, then has one connection after the other.
    struct Flaky {
        failures: Cell<u32>,
    }

    impl Listener for Flaky {
        type Stream = ();
        type Address = ();

        fn accept(&self) -> impl Future<Output = io::Result<((), ())>> + Send {
            let failed = self.failures.get() > 0;
            self.failures.set(self.failures.get().saturating_sub(1));
            async move {
                tokio::task::yield_now().await;
                if failed { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(((), ())) }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accept_loop_pauses_after_failures() {
        let (listener, accepted) = (Flaky { failures: Cell::new(20) }, Notify::new());
        let (begin, pauses) = (Instant::now(), RefCell::new(Vec::new()));
        accept_loop(
            &listener,
            accepted.notified(),
            |(), ()| accepted.notify_one(),
            |_| pauses.borrow_mut().push(begin.elapsed()),
        )
        .await;
        let pauses = pauses.into_inner();
        let longest = pauses.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert_eq!(pauses.len(), 20);
        assert!(
            begin.elapsed() >= ACCEPT_RETRY_DELAY_MIN * 20
                && longest <= ACCEPT_RETRY_DELAY_MAX + ACCEPT_RETRY_DELAY_MIN
        );
    }

    #[tokio::test(start_paused = true)]
    async fn accept_loop_stops_during_a_pause() {
        let listener = Flaky { failures: Cell::new(u32::MAX) };
        let stop = tokio::time::sleep(Duration::from_secs(60));
        let accepting = accept_loop(&listener, stop, |(), ()| {}, |_| {});
        assert!(timeout(Duration::from_secs(61), accepting).await.is_ok());
    }

    #[tokio::test]
    async fn accept_loop_takes_tcp_and_unix_connections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let taken = Cell::new(0);
        let count = || taken.set(taken.get() + 1);
        let clients = async {
            let _open =
                (TcpStream::connect(address).await.unwrap(), UnixStream::connect(&path).await.unwrap());
            while taken.get() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = accept_loop(&tcp, pending(), |_, _| count(), |error| panic!("{error}")) => {}
            () = accept_loop(&unix, pending(), |_, _| count(), |error| panic!("{error}")) => {}
            () = clients => {}
        }
        assert_eq!(taken.get(), 2);
    }
}
