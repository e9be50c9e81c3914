//! Direction: passes bytes one way.
//!
//! An idle direction holds no memory: bytes pass through a buffer that all connections of a thread share, and only the bytes
//! that the sink does not accept at once are kept.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;

/// Bytes of one read, and so the most that one direction keeps. Fewer and larger system calls are cheaper.
pub(super) const READ_BYTES_MAX: usize = 128 * 1024;
/// The same where a side is in TLS: the bytes of one read are encrypted and written at once, and should still be in the
/// processor's cache.
pub(super) const TLS_READ_BYTES_MAX: usize = 64 * 1024;

/// Bytes in a row before the other direction and other sessions have their turn: an endless upload must not hold back the
/// error that would end it.
const TURN_BYTES_MAX: usize = 512 * 1024;
/// Reads in a row. Both directions together stay below tokio's cooperative budget of a task.
const READS_PER_TURN_MAX: usize = 32;

thread_local! {
    /// Taken during one poll, never held across two.
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// How a direction ended.
#[derive(Debug)]
pub(super) enum End {
    /// The source ended, in order or with an error, and all its bytes were passed on.
    Source(Option<io::Error>),
    /// The sink accepts no more bytes.
    Sink(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(None) => f.write_str("the source closed the connection"),
            Self::Source(Some(error)) => write!(f, "the source's connection broke: {error}"),
            Self::Sink(error) => write!(f, "the sink accepts no bytes: {error}"),
        }
    }
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Direction {
    read_bytes_max: usize,
    kept: BytesMut,
    source_end: Option<Option<io::Error>>,
    is_flushed: bool,
}

impl Direction {
    /// A direction that begins with bytes that were read before, and that reads so many bytes at once, at most
    /// [`READ_BYTES_MAX`].
    pub(super) fn new(read_before: BytesMut, read_bytes_max: usize) -> Self {
        // Even an empty buffer may hold memory.
        let kept = if read_before.is_empty() { BytesMut::new() } else { read_before };
        Self { read_bytes_max, kept, source_end: None, is_flushed: true }
    }

    /// Whether no bytes are kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The bytes that were read and not passed on.
    pub(super) fn into_kept(self) -> BytesMut {
        self.kept
    }

    /// Passes bytes on as long as source and sink are ready. `see` gets every byte that is read, in order.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        mut see: impl FnMut(&[u8]),
    ) -> Poll<End> {
        let mut buffer = BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES_MAX].into_boxed_slice());
        let end = self.poll_with(cx, source, sink, &mut see, &mut buffer[..self.read_bytes_max]);
        BUFFER.set(Some(buffer));
        end
    }

    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        see: &mut impl FnMut(&[u8]),
        buffer: &mut [u8],
    ) -> Poll<End> {
        let mut passed = 0;
        for _ in 0..READS_PER_TURN_MAX {
            if passed >= TURN_BYTES_MAX {
                break;
            }
            if let Err(error) = ready!(self.poll_write_kept(cx, sink)) {
                return Poll::Ready(End::Sink(error));
            }
            if let Some(error) = &mut self.source_end {
                let error = error.take();
                return match self.poll_flush(cx, sink) {
                    Poll::Ready(Ok(())) => Poll::Ready(End::Source(error)),
                    Poll::Ready(Err(error)) => Poll::Ready(End::Sink(error)),
                    Poll::Pending => {
                        self.source_end = Some(error);
                        Poll::Pending
                    }
                };
            }
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut *source).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.source_end = Some(None),
                Poll::Ready(Ok(())) => {
                    passed += read.filled().len();
                    see(read.filled());
                    if let Err(error) = self.write_through(cx, sink, read.filled()) {
                        return Poll::Ready(End::Sink(error));
                    }
                }
                Poll::Ready(Err(error)) => self.source_end = Some(Some(error)),
                // The source has no more bytes for now: flush what the sink has buffered.
                Poll::Pending => {
                    return match self.poll_flush(cx, sink) {
                        Poll::Ready(Err(error)) => Poll::Ready(End::Sink(error)),
                        _ => Poll::Pending,
                    };
                }
            }
        }
        // After the other tasks of the thread, and after their sockets were looked at.
        let _ = pin!(yield_now()).poll(cx);
        Poll::Pending
    }

    /// Writes what the sink accepts now and keeps the rest.
    fn write_through(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> io::Result<()> {
        self.is_flushed = false;
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.kept.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_write_kept(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.is_flushed = false;
        while self.kept.has_remaining() {
            match ready!(Pin::new(&mut *sink).poll_write(cx, &self.kept)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.kept.advance(written),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.kept = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if !self.is_flushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_source_that_never_pauses_gives_way() {
        let mut direction = Direction::new(BytesMut::new(), READ_BYTES_MAX);
        let (mut source, mut sink) = (tokio::io::repeat(7), tokio::io::sink());
        let mut seen = 0;
        let mut cx = Context::from_waker(Waker::noop());
        let turn = direction.poll(&mut cx, &mut source, &mut sink, |bytes| seen += bytes.len());
        assert!(turn.is_pending());
        assert_eq!(seen, TURN_BYTES_MAX);
    }

    #[test]
    fn idle_direction_holds_no_memory() {
        let direction = Direction::new(BytesMut::with_capacity(8192), READ_BYTES_MAX);
        assert_eq!(direction.kept.capacity(), 0);
    }
}
