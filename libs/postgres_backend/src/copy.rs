//! [`CopyBoth`]: a connection on which both sides send CopyData at once (PostgreSQL documentation, "COPY Operations").
//! Used by handlers that stream WAL. The client's side is in [`crate::client`] and shares the writer.

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use pq_proto::{FramedError, FrontendMessage, ProtocolError, Text};

use crate::connection::{Connection, Reader, Writer};
use crate::io::Io;

/// A connection in CopyBoth. Its halves may go to two tasks; a new value made of both joins them.
#[derive(Debug)]
pub struct CopyBoth<S> {
    /// Receives from the client.
    pub reader: CopyReader<S>,
    /// Sends to the client.
    pub writer: CopyWriter<S>,
}

impl<S: Io> CopyBoth<S> {
    /// Splits a connection whose client has got CopyBothResponse.
    pub fn split(connection: Connection<S>) -> Self {
        let Connection { reader, writer } = connection;
        Self { reader: CopyReader { reader, done: false }, writer: CopyWriter::new(writer) }
    }

    /// [`Connection::change_socket`] in the middle of the copy.
    pub fn change_socket<T>(self, change: impl FnOnce(&mut S) -> T) -> (Self, T) {
        let done = self.reader.done;
        let (connection, changed) = self.join().change_socket(change);
        let mut copy = Self::split(connection);
        copy.reader.done = done;
        (copy, changed)
    }

    /// Joins the halves to the connection that they came from.
    pub fn join(self) -> Connection<S> {
        Connection { reader: self.reader.reader, writer: self.writer.into_writer() }
    }
}

/// A message of a client inside CopyBoth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyMessage {
    /// The payload of a CopyData message.
    Data(Bytes),
    /// The client has nothing more to send.
    Done,
    /// The client aborts the copy, with a reason.
    Fail(Text),
    /// The client ends the session, with Terminate or by closing the connection. Standbys do so without CopyDone.
    Terminate,
}

/// Reads the client's messages.
#[derive(Debug)]
pub struct CopyReader<S> {
    reader: Reader<S>,
    /// The client has ended its side of the copy: messages behind that belong to the query loop.
    done: bool,
}

impl<S: Io> CopyReader<S> {
    /// Reads the next message, with a payload of at most `payload_bytes_max` bytes. After [`CopyMessage::Done`] or
    /// [`CopyMessage::Fail`] it always returns Done and reads nothing more. Cancel-safe.
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
                // A client of the extended protocol sends these before it knows that a copy began.
                FrontendMessage::Flush | FrontendMessage::Sync => {}
                _ => return Err(ProtocolError::UnknownTag(tag).into()),
            }
        }
        Ok(CopyMessage::Done)
    }
}

/// Sends CopyData, for a server or a client.
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

    /// Buffers a payload that `payload` appends, without a copy in between.
    pub fn put_with(&mut self, payload: impl FnOnce(&mut BytesMut)) -> Result<(), ProtocolError> {
        self.writer.put_copy_data(|out| {
            payload(out);
            Ok(())
        })
    }

    /// Buffers CopyDone, which ends this side of the copy.
    pub fn put_done(&mut self) -> Result<(), ProtocolError> {
        // The message is the same in both directions.
        self.writer.put(&FrontendMessage::CopyDone)
    }

    /// Number of bytes that wait for a flush.
    pub fn buffered_bytes(&self) -> usize {
        self.writer.buffered_bytes()
    }

    /// Writes everything that is buffered. Cancel-safe: bytes that were not written stay buffered.
    pub async fn flush(&mut self) -> Result<(), FramedError> {
        Ok(self.writer.flush().await?)
    }

    /// As [`flush`](Self::flush), for a task that polls several connections.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FramedError>> {
        // The future keeps nothing of its own between two polls.
        pin!(self.flush()).poll(cx)
    }

    /// Buffers a payload and flushes. When the future is dropped after its first poll, the payload stays buffered and
    /// goes out with the next flush.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), FramedError> {
        self.put(payload)?;
        self.flush().await
    }
}
