//! [`FramedWriter`]: buffers messages and writes them to a stream.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::error::{FramedError, ProtocolError};
use crate::wire::{Encode, write_frame};

/// [`FramedWriter::flush_if_full`] flushes from this many buffered bytes on.
pub const WRITE_BUFFER_BYTES_HIGH: usize = 64 * 1024;

/// Buffers messages, and writes them to the stream when it is flushed.
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

    /// Returns the stream, and the bytes that were not written to it yet.
    pub fn into_parts(self) -> (W, BytesMut) {
        (self.io, self.buffer)
    }

    /// Number of bytes that wait for a flush.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Buffers a message. On an error nothing is buffered.
    pub fn put(&mut self, message: &impl Encode) -> Result<(), ProtocolError> {
        message.encode(&mut self.buffer)
    }

    /// Buffers a CopyData message; `payload` appends its payload, without a copy in between.
    pub fn put_copy_data(
        &mut self,
        payload: impl FnOnce(&mut BytesMut) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        write_frame(&mut self.buffer, b'd', payload)
    }

    /// Buffers encoded bytes: whole messages, or the one byte that answers an SSLRequest.
    pub fn put_raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Writes everything that is buffered. Cancel-safe: bytes that were not written stay buffered.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            // The buffer is one slice: a vectored write, as `write_buf` makes, costs the kernel more.
            let written = self.io.write(&self.buffer).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.buffer.advance(written);
        }
        self.io.flush().await
    }

    /// Flushes when [`WRITE_BUFFER_BYTES_HIGH`] bytes are buffered; called between the messages of a long answer.
    /// Cancel-safe.
    pub async fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= WRITE_BUFFER_BYTES_HIGH { self.flush().await } else { Ok(()) }
    }

    /// Buffers a message and flushes. When the future is dropped after its first poll, the message stays buffered and
    /// goes out with the next flush.
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
