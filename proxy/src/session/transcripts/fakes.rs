//! Fakes for transcripts: a client's stream that counts writes, computes behind pipes, and randomness that counts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rand::rand_core::TryRng;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use crate::compute::Dial;
use crate::control_plane::Address;

/// The proxy's end of a client's pipe.
pub(super) struct CountsWrites {
    pub(super) stream: DuplexStream,
    pub(super) writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountsWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountsWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub(super) type Dialed = oneshot::Sender<std::io::Result<DuplexStream>>;

#[derive(Debug)]
pub(super) struct ScriptedDial(pub(super) mpsc::UnboundedSender<Dialed>);

impl Dial for ScriptedDial {
    type Stream = DuplexStream;

    async fn dial(&self, _: &Address) -> std::io::Result<DuplexStream> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(answer);
        answered.await.unwrap_or_else(|_| Err(std::io::ErrorKind::ConnectionRefused.into()))
    }
}

/// The first random bytes are all 1, the next all 2, and so on.
pub(super) struct Counting(pub(super) u8);

impl TryRng for Counting {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.0 += 1;
        Ok(u32::from_be_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 += 1;
        Ok(u64::from_be_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0 += 1;
        bytes.fill(self.0);
        Ok(())
    }
}
