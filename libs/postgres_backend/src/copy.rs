//! CopyBoth: both sides send CopyData at once (PostgreSQL documentation, "COPY Operations"). Used by handlers that
//! stream WAL; the client's side of the same is in [`crate::client`], and shares the writer.

use bytes::{Bytes, BytesMut};
use pq_proto::{FramedError, FrontendMessage, ProtocolError, Text};

use crate::connection::{Connection, Reader, Writer};
use crate::stream::Io;

/// A connection in CopyBoth. The halves may go to two tasks; a new value of the same fields joins them.
#[derive(Debug)]
pub struct CopyBoth<S> {
    /// What the client sends.
    pub reader: CopyReader<S>,
    /// What the client gets.
    pub writer: CopyWriter<S>,
}

impl<S: Io> CopyBoth<S> {
    /// Splits a connection whose client was told that CopyBoth begins.
    pub fn split(connection: Connection<S>) -> Self {
        let Connection { reader, writer } = connection;
        Self { reader: CopyReader { reader, done: false }, writer: CopyWriter::new(writer) }
    }

    /// Puts the connection together again.
    pub fn join(self) -> Connection<S> {
        Connection { reader: self.reader.reader, writer: self.writer.into_writer() }
    }
}

/// What a client says inside CopyBoth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyMessage {
    /// A payload.
    Data(Bytes),
    /// The client has nothing more to send.
    Done,
    /// The client gives up, with these words.
    Fail(Text),
    /// The client ends the session, by message or by closing the connection. Standbys do it without CopyDone.
    Terminate,
}

/// Reads what the client sends.
#[derive(Debug)]
pub struct CopyReader<S> {
    reader: Reader<S>,
    /// The client's side of the copy is over: what follows belongs to the query loop.
    done: bool,
}

impl<S: Io> CopyReader<S> {
    /// The next message, with a payload of at most `payload_bytes_max` bytes. After [`CopyMessage::Done`] or
    /// [`CopyMessage::Fail`] it is Done for ever, and nothing more is read. Cancel-safe.
    pub async fn next(&mut self, payload_bytes_max: usize) -> Result<CopyMessage, FramedError> {
        while !self.done {
            let Some(frame) = self.reader.read_frame(payload_bytes_max).await? else {
                return Ok(CopyMessage::Terminate);
            };
            let tag = frame.tag;
            match FrontendMessage::decode(frame)? {
                FrontendMessage::CopyData(payload) => return Ok(CopyMessage::Data(payload)),
                FrontendMessage::CopyFail(reason) => {
                    self.done = true;
                    return Ok(CopyMessage::Fail(reason));
                }
                FrontendMessage::CopyDone => self.done = true,
                FrontendMessage::Terminate => return Ok(CopyMessage::Terminate),
                // A client of the extended protocol sends these without knowing yet that a copy began.
                FrontendMessage::Flush | FrontendMessage::Sync => {}
                _ => return Err(ProtocolError::UnknownTag(tag).into()),
            }
        }
        Ok(CopyMessage::Done)
    }
}

/// Sends CopyData, on either side.
#[derive(Debug)]
pub struct CopyWriter<S> {
    writer: Writer<S>,
}

impl<S: Io> CopyWriter<S> {
    pub(crate) fn new(writer: Writer<S>) -> Self {
        Self { writer }
    }

    pub(crate) fn into_writer(self) -> Writer<S> {
        self.writer
    }

    /// Buffers a payload.
    pub fn put(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        self.put_with(|out| out.extend_from_slice(payload))
    }

    /// Buffers the payload that `payload` appends: no copy in between.
    pub fn put_with(&mut self, payload: impl FnOnce(&mut BytesMut)) -> Result<(), ProtocolError> {
        self.writer.put_copy_data(|out| {
            payload(out);
            Ok(())
        })
    }

    /// Buffers CopyDone: this side has nothing more to send.
    pub fn put_done(&mut self) -> Result<(), ProtocolError> {
        // Both directions share this message.
        self.writer.put(&FrontendMessage::CopyDone)
    }

    /// Bytes that wait for a flush.
    pub fn buffered_bytes(&self) -> usize {
        self.writer.buffered_bytes()
    }

    /// Writes everything that is buffered. Cancel-safe: what was not written stays buffered.
    pub async fn flush(&mut self) -> Result<(), FramedError> {
        Ok(self.writer.flush().await?)
    }

    /// Buffers a payload and flushes. When dropped after its first poll, the payload is buffered and goes out with the
    /// next flush.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), FramedError> {
        self.put(payload)?;
        self.flush().await
    }
}
