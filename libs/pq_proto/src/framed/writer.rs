//! [`FramedWriter`]: buffers messages and writes them to a stream.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::FramedError;
use crate::error::ProtocolError;
use crate::wire::{Encode, write_frame};

/// [`FramedWriter::flush_if_full`] flushes from this many buffered bytes on.
pub const WRITE_BUFFER_BYTES_HIGH: usize = 64 * 1024;

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
        write_frame(&mut self.buffer, b'd', payload)
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
