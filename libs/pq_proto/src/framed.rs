//! Frames on an asynchronous stream: the only file of this crate that does IO.
//!
//! A connection above is always two halves in two fields, a [`FramedReader`] and a [`FramedWriter`], so that splitting
//! it between two tasks is a move. Both halves keep what they have in their buffer when a future is dropped: every
//! method here may be an arm of `select!`.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::startup::{STARTUP_PACKET_BYTES_MAX, STARTUP_PACKET_BYTES_MIN};
use crate::{Encode, Frame, ProtocolError, StartupPacket};

/// Room that is made for one read, in bytes. The buffer grows with what arrived, never with what a length announces.
const READ_CHUNK_BYTES: usize = 8 * 1024;

/// Type byte and length word.
const FRAME_HEADER_BYTES: usize = 5;

/// Above this many buffered bytes a writer that is asked to is flushed.
pub const WRITE_BUFFER_BYTES_HIGH: usize = 64 * 1024;

/// Why no frame could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FramedError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer's bytes are no message.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The stream ended inside a message.
    #[error("connection closed inside a message")]
    ClosedInsideMessage,
}

/// Reads frames.
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

    /// Starts with bytes that were read before.
    pub fn with_buffer(io: R, buffer: BytesMut) -> Self {
        Self { io, buffer }
    }

    /// The stream, and what was read from it but not used.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }

    /// What was read from the stream and not used yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// The stream below.
    pub fn io_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// The next message, `None` when the stream ended between two messages. A body longer than `body_bytes_max` is an
    /// error before any of it is waited for. Cancel-safe.
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

    /// The next packet of the opening, `None` when the stream ended before it. Cancel-safe.
    pub async fn read_startup_packet(&mut self) -> Result<Option<StartupPacket>, FramedError> {
        if !self.fill(4).await? {
            return Ok(None);
        }
        let body_bytes = body_length(&self.buffer[..4], STARTUP_PACKET_BYTES_MAX - 4)?;
        if body_bytes + 4 < STARTUP_PACKET_BYTES_MIN {
            return Err(ProtocolError::Truncated.into());
        }
        if !self.fill(4 + body_bytes).await? {
            return Err(FramedError::ClosedInsideMessage);
        }
        self.buffer.advance(4);
        Ok(Some(StartupPacket::decode(self.buffer.split_to(body_bytes).freeze())?))
    }

    /// Looks at the next byte without taking it, `None` at the end of the stream. Cancel-safe.
    pub async fn peek_byte(&mut self) -> Result<Option<u8>, FramedError> {
        self.fill(1).await?;
        Ok(self.buffer.first().copied())
    }

    /// Takes one byte: the answer to an SSLRequest. Cancel-safe.
    pub async fn read_byte(&mut self) -> Result<Option<u8>, FramedError> {
        let byte = self.peek_byte().await?;
        if byte.is_some() {
            self.buffer.advance(1);
        }
        Ok(byte)
    }

    /// Reads until `count` bytes are in the buffer. False when the stream ended with an empty buffer.
    async fn fill(&mut self, count: usize) -> Result<bool, FramedError> {
        while self.buffer.len() < count {
            let missing = count - self.buffer.len();
            let free = self.buffer.capacity() - self.buffer.len();
            if free < missing.min(READ_CHUNK_BYTES) {
                self.buffer.reserve(READ_CHUNK_BYTES);
            }
            // `read_buf` is cancel-safe: bytes are in the buffer or were not read.
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(false)
                } else {
                    Err(FramedError::ClosedInsideMessage)
                };
            }
        }
        Ok(true)
    }
}

/// The length of a body, from a length word that counts itself.
fn body_length(word: &[u8], body_bytes_max: usize) -> Result<usize, ProtocolError> {
    let length = word.try_into().map(i32::from_be_bytes).map_err(|_| ProtocolError::Truncated)?;
    let announced = usize::try_from(length).map_err(|_| ProtocolError::InvalidLength(length))?;
    let body_bytes = announced.checked_sub(4).ok_or(ProtocolError::InvalidLength(length))?;
    if body_bytes > body_bytes_max {
        return Err(ProtocolError::TooLong { announced, max: body_bytes_max + 4 });
    }
    Ok(body_bytes)
}

/// Buffers messages and writes them.
#[derive(Debug)]
pub struct FramedWriter<W> {
    io: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FramedWriter<W> {
    /// Starts with an empty buffer.
    pub fn new(io: W) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The stream, and what was not written to it yet.
    pub fn into_parts(self) -> (W, BytesMut) {
        (self.io, self.buffer)
    }

    /// Bytes that wait for a flush.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Buffers a message.
    pub fn put(&mut self, message: &impl Encode) -> Result<(), ProtocolError> {
        message.encode(&mut self.buffer)
    }

    /// Buffers a CopyData message whose payload `payload` appends.
    pub fn put_copy_data(
        &mut self,
        payload: impl FnOnce(&mut BytesMut) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        crate::wire::write_frame(&mut self.buffer, b'd', payload)
    }

    /// Buffers bytes that are whole messages already, or a one-byte answer of the opening.
    pub fn put_raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Writes everything that is buffered. Cancel-safe: what was not written stays buffered.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            // `write_buf` takes from the buffer exactly what it wrote.
            if self.io.write_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.io.flush().await
    }

    /// Flushes when much is buffered; called between the messages of a long answer. Cancel-safe.
    pub async fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= WRITE_BUFFER_BYTES_HIGH { self.flush().await } else { Ok(()) }
    }

    /// Buffers a message and flushes. When dropped after its first poll, the message is buffered and goes out with the
    /// next flush.
    pub async fn send(&mut self, message: &impl Encode) -> Result<(), FramedError> {
        self.put(message)?;
        Ok(self.flush().await?)
    }

    /// Flushes and closes the sending direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }
}

impl From<FramedError> for io::Error {
    fn from(error: FramedError) -> Self {
        match error {
            FramedError::Io(error) => error,
            FramedError::ClosedInsideMessage => Self::new(io::ErrorKind::UnexpectedEof, error),
            FramedError::Protocol(_) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::{BackendMessage, FrontendMessage};

    const PIPE_BYTES: usize = 1 << 20;
    const BODY_BYTES_MAX: usize = 1 << 20;

    /// One poll, then the future is dropped: what `select!` does with an arm that lost.
    fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    async fn reader_of(bytes: &[u8]) -> (FramedReader<DuplexStream>, DuplexStream) {
        let (mut peer, ours) = duplex(PIPE_BYTES);
        peer.write_all(bytes).await.unwrap();
        (FramedReader::new(ours), peer)
    }

    #[tokio::test]
    async fn a_frame_survives_any_number_of_dropped_reads() {
        let mut wire = BytesMut::new();
        for text in ["first", "second"] {
            FrontendMessage::Query(text.into()).encode(&mut wire).unwrap();
        }
        let (mut reader, mut peer) = reader_of(&[]).await;
        let mut queries = Vec::new();
        for byte in wire {
            peer.write_all(&[byte]).await.unwrap();
            if let Some(frame) = poll_once(reader.read_frame(BODY_BYTES_MAX)) {
                queries.push(FrontendMessage::decode(frame.unwrap().unwrap()).unwrap());
            }
        }
        assert_eq!(
            queries,
            [FrontendMessage::Query("first".into()), FrontendMessage::Query("second".into())]
        );
    }

    #[tokio::test]
    async fn a_huge_length_that_is_followed_by_nothing_allocates_next_to_nothing() {
        let (mut reader, _peer) = reader_of(b"d\x7f\xff\xff\xffsome").await;
        assert!(poll_once(reader.read_frame(usize::MAX)).is_none());
        assert!(reader.buffer.capacity() <= 2 * READ_CHUNK_BYTES, "{} bytes", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn the_buffer_grows_with_what_arrived() {
        let (mut reader, mut peer) = reader_of(b"d\x7f\xff\xff\xff").await;
        for arrived in (4096..=128 * 1024).step_by(4096) {
            peer.write_all(&[0; 4096]).await.unwrap();
            assert!(poll_once(reader.read_frame(usize::MAX)).is_none());
            assert!(
                reader.buffer.capacity() <= 2 * (arrived + 2 * READ_CHUNK_BYTES),
                "after {arrived} bytes"
            );
        }
    }

    #[tokio::test]
    async fn a_length_that_is_not_accepted_is_refused_before_the_body_comes() {
        for (header, expected) in [
            (&b"d\0\0\0\x03"[..], ProtocolError::InvalidLength(3)),
            (b"d\0\0\0\0", ProtocolError::InvalidLength(0)),
            (b"d\xff\xff\xff\xff", ProtocolError::InvalidLength(-1)),
            (b"d\0\0\0\x0f", ProtocolError::TooLong { announced: 15, max: 14 }),
        ] {
            let (mut reader, _peer) = reader_of(header).await;
            match poll_once(reader.read_frame(10)) {
                Some(Err(FramedError::Protocol(error))) => assert_eq!(error, expected),
                other => panic!("{header:?}: {other:?}"),
            }
        }
        let (mut reader, _peer) = reader_of(b"d\0\0\0\x0e0123456789").await;
        assert_eq!(reader.read_frame(10).await.unwrap().unwrap().body.len(), 10);
    }

    #[tokio::test]
    async fn the_end_of_the_stream_is_clean_only_between_two_messages() {
        let (mut reader, peer) = reader_of(b"S\0\0\0\x04").await;
        drop(peer);
        assert!(reader.read_frame(BODY_BYTES_MAX).await.unwrap().is_some());
        assert!(reader.read_frame(BODY_BYTES_MAX).await.unwrap().is_none());
        for torn in [&b"d"[..], b"d\0\0\0", b"d\0\0\0\x06a"] {
            let (mut reader, peer) = reader_of(torn).await;
            drop(peer);
            assert!(
                matches!(reader.read_frame(BODY_BYTES_MAX).await, Err(FramedError::ClosedInsideMessage)),
                "{torn:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_startup_packet_of_10000_bytes_is_read_and_a_longer_one_refused() {
        for (value_bytes, fits) in [(9_985, true), (9_986, false)] {
            let params = [("user", "x".repeat(value_bytes))].into_iter().collect();
            let packet = StartupPacket::Startup { version: crate::ProtocolVersion::V3_0, params };
            let mut wire = BytesMut::new();
            packet.encode(&mut wire).unwrap();
            assert_eq!(wire.len() <= STARTUP_PACKET_BYTES_MAX, fits);
            let (mut reader, _peer) = reader_of(&wire).await;
            let read = poll_once(reader.read_startup_packet()).expect("everything is there");
            assert_eq!(read.is_ok_and(|read| read == Some(packet)), fits);
        }
    }

    #[tokio::test]
    async fn a_dropped_flush_loses_and_repeats_nothing() {
        let (mut peer, ours) = duplex(7);
        let mut writer = FramedWriter::new(ours);
        let message = BackendMessage::CopyData(vec![b'x'; 100].into());
        let mut expected = BytesMut::new();
        message.encode(&mut expected).unwrap();
        writer.put(&message).unwrap();
        let mut received = BytesMut::new();
        while writer.buffered_bytes() > 0 {
            let _ = poll_once(writer.flush());
            let _ = poll_once(peer.read_buf(&mut received));
        }
        while received.len() < expected.len() {
            peer.read_buf(&mut received).await.unwrap();
        }
        assert_eq!(received, expected);
    }

    #[tokio::test]
    async fn peeking_takes_nothing() {
        let (mut reader, peer) = reader_of(b"S").await;
        drop(peer);
        assert_eq!(reader.peek_byte().await.unwrap(), Some(b'S'));
        assert_eq!(reader.read_byte().await.unwrap(), Some(b'S'));
        assert_eq!(reader.read_byte().await.unwrap(), None);
    }
}
