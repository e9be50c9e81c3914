//! [`ClientCopyBoth`]: the client's side of CopyBoth.

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use pq_proto::BackendMessage;
use tokio::net::TcpStream;

use super::error::ClientError;
use super::parameters::Parameters;
use super::query::{Client, SimpleRow};
use crate::connection::{Connection, Reader};
use crate::copy::CopyWriter;
use crate::io::Io;

/// A connection in CopyBoth. Its halves may go to two tasks; a new value made of both joins them.
#[derive(Debug)]
pub struct ClientCopyBoth<S = TcpStream> {
    /// Receives from the server.
    pub reader: ClientCopyReader<S>,
    /// Sends to the server.
    pub writer: CopyWriter<S>,
}

impl<S: Io> Client<S> {
    /// Runs a query that enters CopyBoth. Every error ends the client.
    pub async fn copy_both(mut self, query: &str) -> Result<ClientCopyBoth<S>, ClientError> {
        self.send_query(query).await?;
        match self.next_message().await? {
            BackendMessage::CopyBothResponse(_) => {
                Ok(ClientCopyBoth::split(self.connection, self.parameters))
            }
            BackendMessage::ErrorResponse(response) => Err(response.into()),
            other => Err(ClientError::UnexpectedMessage(other.tag())),
        }
    }
}

impl<S: Io> ClientCopyBoth<S> {
    fn split(connection: Connection<S>, parameters: Parameters) -> Self {
        let Connection { reader, writer } = connection;
        Self { reader: ClientCopyReader { reader, parameters, done: false }, writer: CopyWriter::new(writer) }
    }

    /// Ends the copy: sends CopyDone, drops the payloads that the server still sends, and reads the results behind them.
    /// A payload of more than `payload_bytes_max` bytes is an error. CopyDone must not have been sent before.
    pub async fn finish(
        mut self,
        payload_bytes_max: usize,
    ) -> Result<(Client<S>, Vec<SimpleRow>), ClientError> {
        self.writer.put_done()?;
        self.writer.flush().await?;
        while self.reader.next(payload_bytes_max).await? != ClientCopyMessage::Done {}
        let connection = Connection { reader: self.reader.reader, writer: self.writer.into_writer() };
        let mut client = Client { connection, parameters: self.reader.parameters };
        let rows = client.read_results().await?;
        Ok((client, rows))
    }
}

/// A message of a server inside CopyBoth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCopyMessage {
    /// The payload of a CopyData message.
    Data(Bytes),
    /// The server has nothing more to send.
    Done,
}

/// Reads the server's messages.
#[derive(Debug)]
pub struct ClientCopyReader<S = TcpStream> {
    reader: Reader<S>,
    parameters: Parameters,
    /// The server has ended its side of the copy: messages behind that belong to the query.
    done: bool,
}

impl<S: Io> ClientCopyReader<S> {
    /// As [`next`](Self::next), for a task that polls several connections.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        payload_bytes_max: usize,
    ) -> Poll<Result<ClientCopyMessage, ClientError>> {
        // The future keeps nothing of its own between two polls.
        pin!(self.next(payload_bytes_max)).poll(cx)
    }

    /// Reads the next message, with a payload of at most `payload_bytes_max` bytes. After [`ClientCopyMessage::Done`] it
    /// always returns Done and reads nothing more. The server's ErrorResponse and the end of the stream are errors.
    /// Cancel-safe.
    pub async fn next(&mut self, payload_bytes_max: usize) -> Result<ClientCopyMessage, ClientError> {
        while !self.done {
            let frame = self.reader.read_frame(payload_bytes_max).await?.ok_or(ClientError::Closed)?;
            match BackendMessage::decode(frame)? {
                BackendMessage::CopyData(payload) => return Ok(ClientCopyMessage::Data(payload)),
                BackendMessage::CopyDone => self.done = true,
                BackendMessage::ErrorResponse(response) => return Err(response.into()),
                BackendMessage::ParameterStatus { name, value } => {
                    self.parameters.set(&name, &value)?;
                }
                BackendMessage::NoticeResponse(notice) => tracing::debug!(%notice, "notice from the server"),
                BackendMessage::NotificationResponse { .. } => {}
                other => return Err(ClientError::UnexpectedMessage(other.tag())),
            }
        }
        Ok(ClientCopyMessage::Done)
    }
}
