//! The client's side of CopyBoth.

use std::collections::BTreeMap;

use bytes::Bytes;
use pq_proto::BackendMessage;

use super::{Client, ClientError, SimpleRow};
use crate::connection::{Connection, Reader};
use crate::copy::CopyWriter;
use crate::stream::Io;
use tokio::net::TcpStream;

/// A connection in CopyBoth. The halves may go to two tasks; a new value of the same fields joins them.
#[derive(Debug)]
pub struct ClientCopyBoth<S = TcpStream> {
    /// What the server sends.
    pub reader: ClientCopyReader<S>,
    /// What the server gets.
    pub writer: CopyWriter<S>,
}

impl<S: Io> ClientCopyBoth<S> {
    pub(super) fn split(connection: Connection<S>, parameters: BTreeMap<String, String>) -> Self {
        let Connection { reader, writer } = connection;
        Self { reader: ClientCopyReader { reader, parameters, done: false }, writer: CopyWriter::new(writer) }
    }

    /// Ends the copy: sends CopyDone, drops what the server still sends, and reads the results behind it. Payloads of
    /// more than `payload_bytes_max` bytes are an error. CopyDone must not have been sent before.
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

/// What a server says inside CopyBoth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCopyMessage {
    /// A payload.
    Data(Bytes),
    /// The server has nothing more to send.
    Done,
}

/// Reads what the server sends.
#[derive(Debug)]
pub struct ClientCopyReader<S = TcpStream> {
    reader: Reader<S>,
    parameters: BTreeMap<String, String>,
    /// The server's side of the copy is over: what follows belongs to the query.
    done: bool,
}

impl<S: Io> ClientCopyReader<S> {
    /// The next message, with a payload of at most `payload_bytes_max` bytes. After [`ClientCopyMessage::Done`] it is
    /// Done for ever, and nothing more is read. The server's ErrorResponse and the end of the stream are errors.
    /// Cancel-safe.
    pub async fn next(&mut self, payload_bytes_max: usize) -> Result<ClientCopyMessage, ClientError> {
        while !self.done {
            let frame = self.reader.read_frame(payload_bytes_max).await?.ok_or(ClientError::Closed)?;
            match BackendMessage::decode(frame)? {
                BackendMessage::CopyData(payload) => return Ok(ClientCopyMessage::Data(payload)),
                BackendMessage::CopyDone => self.done = true,
                BackendMessage::ErrorResponse(response) => return Err(response.into()),
                BackendMessage::ParameterStatus { name, value } => {
                    super::set_parameter(&mut self.parameters, &name, &value)?;
                }
                BackendMessage::NoticeResponse(notice) => tracing::debug!(%notice, "notice from the server"),
                BackendMessage::NotificationResponse { .. } => {}
                other => return Err(ClientError::UnexpectedMessage(other.tag())),
            }
        }
        Ok(ClientCopyMessage::Done)
    }
}
