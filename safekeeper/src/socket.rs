//! [`Socket`]: a client's TCP connection, which can move from one tokio runtime to another.
//!
//! A socket belongs to the runtime that waits for it. `receive_wal` detaches the socket of a proposer from the runtime that
//! accepted it, the proposer's shard attaches it to its own, and both do the same on the way back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A client's TCP connection. Reads and writes fail while it belongs to no runtime.
#[derive(Debug)]
pub(crate) struct Socket(Registration);

#[derive(Debug)]
enum Registration {
    /// A runtime waits for it.
    Attached(TcpStream),
    /// On its way to another runtime.
    Detached(std::net::TcpStream),
    /// Closed: the operating system did not let it move, or its owner has ended.
    Lost,
}

impl Socket {
    /// A socket of the runtime that accepted it.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Registration::Attached(stream))
    }

    /// A socket that was closed.
    pub(crate) fn lost() -> Self {
        Self(Registration::Lost)
    }

    /// Takes the socket from its runtime. After an error it is closed.
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, Registration::Lost) {
            Registration::Attached(stream) => Registration::Detached(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// Gives the socket to the runtime that this is called in. After an error it is closed.
    pub(crate) fn attach(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, Registration::Lost) {
            Registration::Detached(stream) => Registration::Attached(TcpStream::from_std(stream)?),
            Registration::Attached(stream) => Registration::Attached(stream),
            Registration::Lost => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok(())
    }

    fn attached(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.0 {
            Registration::Attached(stream) => Ok(Pin::new(stream)),
            Registration::Detached(_) | Registration::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.attached()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attached()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.attached()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attached()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attached()?.poll_shutdown(cx)
    }
}
