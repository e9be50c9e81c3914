//! [`Client`]: runs simple queries and collects their rows (PostgreSQL documentation, "Simple Query").

use std::sync::Arc;

use bytes::Bytes;
use pq_proto::{BackendMessage, FrontendMessage, Text};
use tokio::net::TcpStream;

use super::error::ClientError;
pub use super::error::RESULT_BYTES_MAX;
use super::parameters::Parameters;
use crate::connection::Connection;
use crate::io::Io;

/// A connection of a client that waits for its next command.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    pub(super) connection: Connection<S>,
    pub(super) parameters: Parameters,
}

/// A row of a simple query. All values are in text format.
#[derive(Debug, Clone)]
pub struct SimpleRow {
    columns: Arc<[Text]>,
    values: Vec<Option<Bytes>>,
}

impl SimpleRow {
    /// The value in the column of this name; `None` when it is NULL or not UTF-8, or when there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.at(self.columns.iter().position(|name| name == column)?)
    }

    /// The value in the column of this number, counted from 0; `None` as for [`get`](Self::get).
    pub fn at(&self, index: usize) -> Option<&str> {
        str::from_utf8(self.values.get(index)?.as_ref()?).ok()
    }

    /// The undecoded values; `None` for NULL.
    pub fn values(&self) -> &[Option<Bytes>] {
        &self.values
    }
}

impl<S: Io> Client<S> {
    /// Value of a setting that the server reported; `None` when it did not.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)
    }

    /// Runs a query and collects the rows of all its results. An ErrorResponse leaves the client usable unless its
    /// severity is fatal; every other error ends it. Not cancel-safe: when the future is dropped the client is in the
    /// middle of an answer and must be dropped too.
    pub async fn simple_query(&mut self, query: &str) -> Result<Vec<SimpleRow>, ClientError> {
        self.send_query(query).await?;
        self.read_results().await
    }

    /// Sends Terminate and closes the connection. Dropping the client closes it without a message.
    pub async fn terminate(mut self) -> Result<(), ClientError> {
        self.connection.writer.put(&FrontendMessage::Terminate)?;
        Ok(self.connection.writer.shutdown().await?)
    }

    pub(super) async fn send_query(&mut self, query: &str) -> Result<(), ClientError> {
        if query.contains('\0') {
            return Err(ClientError::ZeroByte("the query"));
        }
        Ok(self.connection.writer.send(&FrontendMessage::Query(query.into())).await?)
    }

    /// Reads rows up to ReadyForQuery.
    pub(super) async fn read_results(&mut self) -> Result<Vec<SimpleRow>, ClientError> {
        let mut rows = Vec::new();
        let mut columns: Arc<[Text]> = Arc::new([]);
        let mut bytes_left = RESULT_BYTES_MAX;
        let mut outcome = Ok(());
        loop {
            match self.next_message().await? {
                BackendMessage::ReadyForQuery(_) => return outcome.map(|()| rows),
                BackendMessage::RowDescription(fields) => {
                    columns = fields.into_iter().map(|field| field.name).collect();
                }
                BackendMessage::DataRow(values) => {
                    let size =
                        values.iter().flatten().map(Bytes::len).sum::<usize>() + size_of::<SimpleRow>();
                    bytes_left = bytes_left.checked_sub(size).ok_or(ClientError::ResultTooLong)?;
                    rows.push(SimpleRow { columns: Arc::clone(&columns), values });
                }
                BackendMessage::CommandComplete(_) | BackendMessage::EmptyQueryResponse => {}
                BackendMessage::ErrorResponse(response) if response.is_fatal() => return Err(response.into()),
                BackendMessage::ErrorResponse(response) => outcome = Err(response.into()),
                other => return Err(ClientError::UnexpectedMessage(other.tag())),
            }
        }
    }

    /// Reads the next message, and handles the messages that a server may send at any time.
    pub(super) async fn next_message(&mut self) -> Result<BackendMessage, ClientError> {
        loop {
            let frame =
                self.connection.reader.read_frame(RESULT_BYTES_MAX).await?.ok_or(ClientError::Closed)?;
            match BackendMessage::decode(frame)? {
                BackendMessage::ParameterStatus { name, value } => {
                    self.parameters.set(&name, &value)?;
                }
                BackendMessage::NoticeResponse(notice) => tracing::debug!(%notice, "notice from the server"),
                BackendMessage::NotificationResponse { .. } => {}
                message => return Ok(message),
            }
        }
    }
}
