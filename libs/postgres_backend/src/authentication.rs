//! Authentication of a [`Session`]: asks for a password in clear (a token over TLS), or for none. It is made of steps, so
//! that a server can put another exchange of `R` and `p` messages in their place.

use std::future::Future;

use bytes::Bytes;
use pq_proto::authentication::decode_password;
use pq_proto::{Authentication, BackendMessage, ErrorResponse, ProtocolError, SqlState, Text};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::error::HandshakeError;
use crate::handshake::Session;
use crate::io::Io;

/// Longest body of a `p` message in bytes. Tokens have some kilobytes; the client is not authenticated yet.
pub const PASSWORD_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Messages that an authenticated client gets before its first ReadyForQuery.
#[derive(Debug, Clone, Default)]
pub struct Greeting<'a> {
    /// Names and values of the ParameterStatus messages.
    pub parameters: &'a [(&'a str, &'a str)],
    /// Process id and secret of BackendKeyData, for servers that can cancel a query.
    pub key: Option<(i32, Bytes)>,
}

impl<S: Io> Session<S> {
    /// Asks for the password in clear and passes it to `verify`. When `verify` fails, the client gets its error as a
    /// response and is refused.
    pub async fn authenticate_cleartext<T>(
        &mut self,
        verify: impl FnOnce(&str) -> Result<T, ErrorResponse>,
    ) -> Result<T, HandshakeError> {
        let password = self.read_cleartext_password().await?;
        let verified = match password.to_str() {
            Ok(password) => verify(password),
            Err(_) => Err(ErrorResponse::fatal(SqlState::INVALID_PASSWORD, "password is not valid UTF-8")),
        };

        match verified {
            Ok(identity) => Ok(identity),
            Err(response) => Err(self.refuse(response).await),
        }
    }

    /// Asks for the password in clear and reads it.
    pub async fn read_cleartext_password(&mut self) -> Result<Text, HandshakeError> {
        let request = BackendMessage::Authentication(Authentication::CleartextPassword);
        self.connection.writer.put(&request)?;
        let body = self.read_password_message().await?;
        let password = decode_password(body).map_err(HandshakeError::from);
        self.reply_on_error(password).await
    }

    /// Flushes, and reads the body of a `p` message. A server builds an exchange that this crate lacks (SASL) from such
    /// steps.
    pub async fn read_password_message(&mut self) -> Result<Bytes, HandshakeError> {
        let connection = &mut self.connection;
        let message = by_deadline(self.deadline, async {
            connection.writer.flush().await?;
            next_password_message(connection).await
        });
        let message = message.await;
        self.reply_on_error(message).await
    }

    /// Sends AuthenticationOk and the greeting. [`crate::serve`] sends ReadyForQuery.
    pub async fn greet(&mut self, greeting: &Greeting<'_>) -> Result<(), HandshakeError> {
        let writer = &mut self.connection.writer;
        writer.put(&BackendMessage::Authentication(Authentication::Ok))?;
        for (name, value) in greeting.parameters {
            writer.put(&BackendMessage::ParameterStatus { name: (*name).into(), value: (*value).into() })?;
        }
        if let Some((pid, key)) = &greeting.key {
            writer.put(&BackendMessage::BackendKeyData { pid: *pid, key: key.clone() })?;
        }
        by_deadline(self.deadline, async { Ok(writer.flush().await?) }).await
    }

    /// Sends the response, closes the sending direction, and returns [`HandshakeError::Refused`].
    pub async fn refuse(&mut self, response: ErrorResponse) -> HandshakeError {
        self.send_closing_message(response.clone()).await;
        HandshakeError::Refused(response)
    }

    /// Sends the client the response to an error, if there is one for it.
    async fn reply_on_error<T>(&mut self, result: Result<T, HandshakeError>) -> Result<T, HandshakeError> {
        if let Some(response) = result.as_ref().err().and_then(HandshakeError::response) {
            self.send_closing_message(response).await;
        }
        result
    }

    /// Sends the closing message. A failure to send it is only logged: the refusal itself matters more.
    async fn send_closing_message(&mut self, response: ErrorResponse) {
        let connection = &mut self.connection;
        let sent = by_deadline(self.deadline, async {
            connection.send_error(response).await?;
            Ok(connection.writer.shutdown().await?)
        });
        if let Err(error) = sent.await {
            tracing::debug!(%error, "closing message was not sent to a refused client");
        }
    }
}

/// Ends `step` with [`HandshakeError::Timeout`] at the deadline.
async fn by_deadline<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    timeout_at(deadline, step).await.map_err(|_| HandshakeError::Timeout)?
}

async fn next_password_message<S: Io>(connection: &mut Connection<S>) -> Result<Bytes, HandshakeError> {
    match connection.reader.read_frame(PASSWORD_MESSAGE_BYTES_MAX).await? {
        None => Err(HandshakeError::Closed),
        Some(frame) if frame.tag == b'p' => Ok(frame.body),
        Some(frame) if frame.tag == b'X' => Err(HandshakeError::Closed),
        Some(frame) => Err(ProtocolError::UnknownTag(frame.tag).into()),
    }
}
