//! A small client: connects, runs simple queries, enters CopyBoth. Used to read WAL from a primary and to talk to
//! servers of this project. No pool, no prepared statements, and of passwords only the one in clear.

mod connect;
mod copy;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use pq_proto::{BackendMessage, ErrorResponse, FramedError, FrontendMessage, ProtocolError, Text};
use tokio::net::TcpStream;

pub use self::connect::ConnectOptions;
pub use self::copy::{ClientCopyBoth, ClientCopyMessage, ClientCopyReader};
pub use self::tls::ClientTls;
use crate::connection::Connection;
use crate::stream::Io;

/// Longest message of a server outside a copy, and longest result as a whole, in bytes.
pub const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why the server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection in time.
    #[error("no connection within the time allowed")]
    Timeout,
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The server does not do TLS.
    #[error("the server does not support TLS")]
    TlsRefused,
    /// The server's name cannot be checked against a certificate.
    #[error("{0:?} is no name that a certificate can be for")]
    ServerName(String),
    /// Bytes came before the TLS handshake that somebody in the middle may have put there.
    #[error("received unencrypted data after the answer to SSLRequest")]
    UnencryptedData,
    /// The server wants a kind of authentication that this client does not do.
    #[error("the server asks for an authentication that is not supported: {0}")]
    UnsupportedAuthentication(&'static str),
    /// The server wants a password, and there is none.
    #[error("the server asks for a password, and none is configured")]
    NoPassword,
    /// A text to send cannot be sent as it is.
    #[error("a zero byte inside {0}")]
    ZeroByte(&'static str),
    /// The server answered with an error.
    #[error(transparent)]
    Server(#[from] ErrorResponse),
    /// The stream failed, or carried no messages.
    #[error(transparent)]
    Connection(#[from] FramedError),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// A message that has no place here.
    #[error("unexpected message {:?} from the server", char::from(*.0))]
    UnexpectedMessage(u8),
    /// More rows than this client keeps.
    #[error("result of more than {RESULT_BYTES_MAX} bytes")]
    ResultTooLong,
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// A connection that waits for a command.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    connection: Connection<S>,
    parameters: BTreeMap<String, String>,
}

/// A row of a simple query: all values are text.
#[derive(Debug, Clone)]
pub struct SimpleRow {
    columns: Arc<[Text]>,
    values: Vec<Option<Bytes>>,
}

impl SimpleRow {
    /// The value in the column of this name; `None` when it is NULL, not UTF-8, or there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.at(self.columns.iter().position(|name| name == column)?)
    }

    /// The value in the column of this number, counted from 0.
    pub fn at(&self, index: usize) -> Option<&str> {
        str::from_utf8(self.values.get(index)?.as_ref()?).ok()
    }

    /// The values as they came.
    pub fn values(&self) -> &[Option<Bytes>] {
        &self.values
    }
}

impl<S: Io> Client<S> {
    /// A setting that the server reported.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs a query and collects the rows of all its results. An error of the server leaves the client usable unless
    /// its severity is fatal. When the future is dropped, the client is in the middle of an answer: drop it too.
    pub async fn simple_query(&mut self, query: &str) -> Result<Vec<SimpleRow>, ClientError> {
        self.send_query(query).await?;
        self.read_results().await
    }

    /// Runs a query that enters CopyBoth. An error ends the client.
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

    /// Says goodbye. Dropping the client closes the connection as well, without a word.
    pub async fn terminate(mut self) -> Result<(), ClientError> {
        self.connection.writer.put(&FrontendMessage::Terminate)?;
        Ok(self.connection.writer.shutdown().await?)
    }

    async fn send_query(&mut self, query: &str) -> Result<(), ClientError> {
        if query.contains('\0') {
            return Err(ClientError::ZeroByte("a query"));
        }
        Ok(self.connection.writer.send(&FrontendMessage::Query(query.into())).await?)
    }

    /// Rows up to ReadyForQuery.
    async fn read_results(&mut self) -> Result<Vec<SimpleRow>, ClientError> {
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

    /// The next message that is not one of those that a server may send at any time.
    async fn next_message(&mut self) -> Result<BackendMessage, ClientError> {
        loop {
            let frame =
                self.connection.reader.read_frame(RESULT_BYTES_MAX).await?.ok_or(ClientError::Closed)?;
            match BackendMessage::decode(frame)? {
                BackendMessage::ParameterStatus { name, value } => {
                    set_parameter(&mut self.parameters, &name, &value)?;
                }
                BackendMessage::NoticeResponse(notice) => tracing::debug!(%notice, "notice from the server"),
                BackendMessage::NotificationResponse { .. } => {}
                message => return Ok(message),
            }
        }
    }
}

/// Settings that a server may report, at most.
const PARAMETERS_MAX: usize = 256;

fn set_parameter(
    parameters: &mut BTreeMap<String, String>,
    name: &Text,
    value: &Text,
) -> Result<(), ProtocolError> {
    let name = name.to_str_lossy().into_owned();
    if parameters.len() >= PARAMETERS_MAX && !parameters.contains_key(&name) {
        return Err(ProtocolError::InvalidValue {
            field: "number of parameters",
            value: PARAMETERS_MAX as i64,
        });
    }
    parameters.insert(name, value.to_str_lossy().into_owned());
    Ok(())
}
