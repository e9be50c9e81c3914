//! [`FramedReader`]: reads frames and startup packets from a stream.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::error::{FramedError, ProtocolError};
use crate::startup::{STARTUP_PACKET_BYTES_MAX, STARTUP_PACKET_BYTES_MIN, StartupPacket};
use crate::wire::Frame;

/// Room for one read, in bytes. The buffer grows with what has arrived, never with what a length word announces.
pub(super) const READ_CHUNK_BYTES: usize = 8 * 1024;

thread_local! {
    /// Where the first bytes of a message arrive. A connection that waits for its peer owns no memory for them.
    static FIRST_BYTES: RefCell<[u8; READ_CHUNK_BYTES]> = const { RefCell::new([0; READ_CHUNK_BYTES]) };
}

/// Bytes of a length word, which counts itself.
const LENGTH_BYTES: usize = 4;

/// Bytes of a type byte and a length word.
const FRAME_HEADER_BYTES: usize = 1 + LENGTH_BYTES;

/// Reads frames, and the packets that open a connection.
///
/// Every method is cancel-safe: bytes that have arrived stay in the buffer when a future is dropped.
///
/// ```
/// use pq_proto::{FramedReader, FrontendMessage};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// // Any `AsyncRead` will do. A message is a type byte, a length that counts itself, and the body.
/// let mut reader = FramedReader::new(&b"Q\0\0\0\x0dSELECT 1\0"[..]);
/// let frame = reader.read_frame(64 * 1024).await.unwrap().expect("one message");
/// assert_eq!(FrontendMessage::decode(frame), Ok(FrontendMessage::Query("SELECT 1".into())));
///
/// // The stream ends between two messages.
/// assert_eq!(reader.read_frame(64 * 1024).await.unwrap(), None);
/// # });
/// ```
#[derive(Debug)]
pub struct FramedReader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// Starts with an empty buffer.
    pub fn new(io: R) -> Self {
        Self::with_buffer(io, BytesMut::new())
    }

    /// Starts with bytes that were read from the stream before.
    pub fn with_buffer(io: R, buffer: BytesMut) -> Self {
        Self { io, buffer }
    }

    /// Returns the stream, and the bytes that were read from it but not used.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }

    /// The bytes that were read from the stream and not used yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// The stream below.
    pub fn io_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// Reads the next message; `None` when the stream ended between two messages. A body of more than `body_bytes_max`
    /// bytes is [`ProtocolError::TooLong`] before any of it is waited for. A stream that ends inside a message is
    /// [`FramedError::ClosedInsideMessage`]. Cancel-safe.
    pub async fn read_frame(&mut self, body_bytes_max: usize) -> Result<Option<Frame>, FramedError> {
        if !self.fill(FRAME_HEADER_BYTES).await? {
            return Ok(None);
        }

        let tag = self.buffer[0];
        let body_bytes = body_length(&self.buffer[1..FRAME_HEADER_BYTES], body_bytes_max)?;
        if !self.fill(FRAME_HEADER_BYTES + body_bytes).await? {
            return Err(FramedError::ClosedInsideMessage);
        }

        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(Frame { tag, body: self.buffer.split_to(body_bytes).freeze() }))
    }

    /// Reads the next packet that has no type byte; `None` when the stream ended before it. A packet of more than
    /// [`STARTUP_PACKET_BYTES_MAX`] bytes is an error before it is waited for. Cancel-safe.
    pub async fn read_startup_packet(&mut self) -> Result<Option<StartupPacket>, FramedError> {
        if !self.fill(LENGTH_BYTES).await? {
            return Ok(None);
        }
        let body_bytes = body_length(&self.buffer[..LENGTH_BYTES], STARTUP_PACKET_BYTES_MAX - LENGTH_BYTES)?;
        if LENGTH_BYTES + body_bytes < STARTUP_PACKET_BYTES_MIN {
            return Err(ProtocolError::Truncated.into());
        }
        if !self.fill(LENGTH_BYTES + body_bytes).await? {
            return Err(FramedError::ClosedInsideMessage);
        }

        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(StartupPacket::decode(self.buffer.split_to(body_bytes).freeze())?))
    }

    /// Returns the next byte and leaves it in the buffer; `None` at the end of the stream. Cancel-safe.
    pub async fn peek_byte(&mut self) -> Result<Option<u8>, FramedError> {
        self.fill(1).await?;
        Ok(self.buffer.first().copied())
    }

    /// Reads one byte, such as the answer to an SSLRequest; `None` at the end of the stream. Cancel-safe.
    pub async fn read_byte(&mut self) -> Result<Option<u8>, FramedError> {
        let byte = self.peek_byte().await?;
        if byte.is_some() {
            self.buffer.advance(1);
        }
        Ok(byte)
    }

    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Reads until `count` bytes are in the buffer. Returns false when the stream ended with an empty buffer.
    async fn fill(&mut self, count: usize) -> Result<bool, FramedError> {
        while self.buffer.len() < count {
            if self.read().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(false)
                } else {
                    Err(FramedError::ClosedInsideMessage)
                };
            }
        }
        Ok(true)
    }

    /// Reads once. Returns the number of bytes; 0 at the end of the stream. Cancel-safe: a byte is in the buffer or was not
    /// read.
    async fn read(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let Self { io, buffer } = self;
            return poll_fn(|cx| poll_first_bytes(io, buffer, cx)).await;
        }
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(READ_CHUNK_BYTES);
        }
        self.io.read_buf(&mut self.buffer).await
    }
}

/// Moves the bytes that have arrived into an empty buffer. Returns how many there were; 0 at the end of the stream.
fn poll_first_bytes<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    FIRST_BYTES.with_borrow_mut(|room| {
        let mut arrived = ReadBuf::new(room);
        ready!(Pin::new(io).poll_read(cx, &mut arrived))?;
        buffer.extend_from_slice(arrived.filled());
        Poll::Ready(Ok(arrived.filled().len()))
    })
}

/// Bytes of the body behind `word`, a length that counts itself.
fn body_length(word: &[u8], body_bytes_max: usize) -> Result<usize, ProtocolError> {
    let length = word.try_into().map(i32::from_be_bytes).map_err(|_| ProtocolError::Truncated)?;
    let announced = usize::try_from(length).map_err(|_| ProtocolError::InvalidLength(length))?;
    let body_bytes = announced.checked_sub(LENGTH_BYTES).ok_or(ProtocolError::InvalidLength(length))?;
    if body_bytes > body_bytes_max {
        return Err(ProtocolError::TooLong { announced, max: body_bytes_max + LENGTH_BYTES });
    }
    Ok(body_bytes)
}
