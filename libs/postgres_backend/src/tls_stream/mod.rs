//! [`TlsStream`]: a byte stream in TLS, of a server or a client. Made by [`ServerTls`](crate::ServerTls) and
//! [`ClientTls`](crate::client::ClientTls).
//!
//! ```text
//!   socket -> scratch.incoming -> engine (decrypts in place) -> the reader's buffer     rest: `kept`, `unread`
//!   the writer's bytes -> engine -> scratch.outgoing -> socket                          rest: `unsent`
//! ```
//!
//! An idle stream holds keys and no buffer. Bytes pass through buffers that all streams of a thread share; a stream keeps
//! only an incomplete record, data for which the reader had no room, and records that the socket did not take.

mod engine;
mod scratch;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::engine::Engine;
use self::scratch::{INCOMING_BYTES, Outgoing, Scratch};
use crate::io::Io;

/// Most bytes of data that one write encrypts, and so about the most that a stream keeps for a slow peer.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Longest record as it travels (RFC 5246, section 6.2.3, with the header).
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// A byte stream in TLS.
pub struct TlsStream<S> {
    io: S,
    engine: Engine,
    /// Encrypted bytes that have arrived and are no complete record.
    kept: Vec<u8>,
    /// Data that was decrypted and not read yet.
    unread: BytesMut,
    /// Encrypted bytes that the socket has not taken yet.
    unsent: BytesMut,
    incoming: Incoming,
    is_shut_down: bool,
}

/// Whether data can still arrive.
enum Incoming {
    Open,
    /// The peer has sent close_notify.
    Closed,
    /// The peer has closed its side without close_notify.
    Torn,
    /// The peer has broken the protocol.
    Failed(Box<rustls::Error>),
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<S> TlsStream<S> {
    /// The stream below. What was read ahead and what waits to be sent stays here.
    pub(crate) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }
}

impl<S: Io> TlsStream<S> {
    /// A stream before its handshake. `read_before` are bytes that were read from the stream below before.
    pub(crate) fn new(io: S, engine: Engine, read_before: &[u8]) -> Box<Self> {
        Box::new(Self {
            io,
            engine,
            kept: read_before.to_vec(),
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            incoming: Incoming::Open,
            is_shut_down: false,
        })
    }

    /// Runs the handshake.
    pub(crate) async fn handshake(mut self: Box<Self>) -> io::Result<Box<Self>> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await?;
        Ok(self)
    }

    /// Facts about the connection.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A client speaks first; a server may have been sent the beginning already.
        let mut kept = mem::take(&mut self.kept);
        Scratch::with(|scratch| {
            self.decrypt(&mut kept, &mut ReadBuf::new(&mut []), &mut scratch.outgoing);
        });
        loop {
            self.check_failure(cx)?;
            let sent = self.poll_send(cx)?;
            if !self.engine.state().is_handshaking() {
                // The peer may wait for the last message before it sends anything.
                ready!(sent);
                return Pin::new(&mut self.io).poll_flush(cx);
            }
            if sent.is_ready() {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            }
            // Also when not all is sent: the peer may not read before it has sent its own message.
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
            // A client may send its last message, a request and close_notify at once.
            if self.engine.state().is_handshaking()
                && matches!(self.incoming, Incoming::Torn | Incoming::Closed)
            {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed the connection");
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Reads once from the stream below, and decrypts into `buffer` and `unread`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Scratch::with(|scratch| {
            let kept = self.kept.len();
            // More than the reader has room for would have to be kept.
            let end = buffer.remaining().max(kept + RECORD_BYTES_MAX).min(INCOMING_BYTES);
            let Some(room) = scratch.incoming.get_mut(kept..end).filter(|room| !room.is_empty()) else {
                let error = io::Error::new(io::ErrorKind::InvalidData, "TLS handshake message is too long");
                return Poll::Ready(Err(error));
            };
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let arrived = read.filled().len();
            if arrived == 0 {
                self.incoming = Incoming::Torn;
                return Poll::Ready(Ok(()));
            }

            let Scratch { incoming, outgoing } = scratch;
            incoming[..kept].copy_from_slice(&self.kept);
            self.decrypt(&mut incoming[..kept + arrived], buffer, outgoing);
            Poll::Ready(Ok(()))
        })
    }

    /// Decrypts into `buffer` and `unread`, and keeps what is incomplete.
    fn decrypt(&mut self, bytes: &mut [u8], buffer: &mut ReadBuf<'_>, outgoing: &mut Outgoing) {
        let unread = &mut self.unread;
        let mut take = |data: &[u8]| {
            let (fits, rest) = data.split_at(data.len().min(buffer.remaining()));
            buffer.put_slice(fits);
            unread.extend_from_slice(rest);
        };
        let received = self.engine.receive(bytes, &mut take, outgoing);

        self.unsent.extend_from_slice(outgoing.bytes());
        self.kept = bytes.get(received.used..).unwrap_or_default().to_vec();
        if received.closed {
            self.incoming = Incoming::Closed;
            // What follows close_notify is ignored (RFC 8446, section 6.1).
            self.kept = Vec::new();
        }
        if let Some(failure) = received.failure {
            self.incoming = Incoming::Failed(Box::new(failure));
        }
    }

    /// The error of a stream whose peer has broken the protocol. The alert for it is sent if the socket takes it at once.
    fn check_failure(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Incoming::Failed(failure) = &self.incoming else { return Ok(()) };
        let error = io::Error::new(io::ErrorKind::InvalidData, failure.as_ref().clone());
        let _ = self.poll_send(cx);
        Err(error)
    }

    /// Sends what is encrypted. An empty buffer is dropped.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent.has_remaining() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        if self.unsent.capacity() > 0 {
            self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `encrypted` and keeps what the socket does not take.
    fn send(&mut self, cx: &mut Context<'_>, mut encrypted: &[u8]) -> io::Result<()> {
        while !encrypted.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, encrypted)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => encrypted = &encrypted[sent..],
                Poll::Pending => {
                    self.unsent.extend_from_slice(encrypted);
                    break;
                }
            }
        }
        Ok(())
    }
}

impl<S: Io> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        while buffer.filled().len() == before && buffer.remaining() > 0 {
            if this.unread.has_remaining() {
                let count = this.unread.len().min(buffer.remaining());
                buffer.put_slice(&this.unread[..count]);
                this.unread.advance(count);
                if !this.unread.has_remaining() {
                    this.unread = BytesMut::new();
                }
                break;
            }
            match &this.incoming {
                Incoming::Open => ready!(this.poll_receive(cx, buffer))?,
                Incoming::Closed => break,
                Incoming::Torn => {
                    let text = "peer closed the connection without close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Incoming::Failed(_) => return Poll::Ready(this.check_failure(cx)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.is_shut_down || matches!(this.incoming, Incoming::Failed(_)) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }

        let data = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Scratch::with(|scratch| {
            this.engine.seal(data, &mut this.kept, &mut scratch.outgoing)?;
            this.send(cx, scratch.outgoing.bytes())
        })?;
        Poll::Ready(Ok(data.len()))
    }

    // The slices become records of full size, as if they were one.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        match (filled.next(), filled.next()) {
            (Some(slice), None) => self.poll_write(cx, slice),
            _ => {
                let mut joined = Vec::new();
                for slice in slices {
                    let room = WRITE_BYTES_MAX - joined.len();
                    joined.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                self.poll_write(cx, &joined)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Sends close_notify and closes the sending direction.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !mem::replace(&mut this.is_shut_down, true) && !matches!(this.incoming, Incoming::Failed(_)) {
            Scratch::with(|scratch| {
                this.engine.seal_close(&mut this.kept, &mut scratch.outgoing)?;
                this.unsent.extend_from_slice(scratch.outgoing.bytes());
                io::Result::Ok(())
            })?;
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
