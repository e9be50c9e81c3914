//! Authentication of a [`Session`]: none, or a password as it is (a token over TLS). Steps, so that a server can put
//! another exchange of `R` and `p` messages in their place.

use std::future::Future;

use bytes::Bytes;
use pq_proto::authentication::decode_password;
use pq_proto::{Authentication, BackendMessage, ErrorResponse, ProtocolError, SqlState, Text};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::error::HandshakeError;
use crate::handshake::Session;
use crate::stream::Io;

/// Longest `p` message in bytes. Tokens have some kilobytes; the peer is a stranger still.
pub const PASSWORD_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What an authenticated client is greeted with.
#[derive(Debug, Clone, Default)]
pub struct Greeting<'a> {
    /// ParameterStatus messages.
    pub parameters: &'a [(&'a str, &'a str)],
    /// BackendKeyData, for servers that can cancel.
    pub key: Option<(i32, Bytes)>,
}

impl<S: Io> Session<S> {
    /// Asks for the password in clear and lets `verify` judge it. The client is told what `verify` refuses with.
    pub async fn authenticate_cleartext<T>(
        &mut self,
        verify: impl FnOnce(&str) -> Result<T, ErrorResponse>,
    ) -> Result<T, HandshakeError> {
        let password = self.cleartext_password().await?;
        let verdict = match password.to_str() {
            Ok(password) => verify(password),
            Err(_) => Err(ErrorResponse::fatal(SqlState::INVALID_PASSWORD, "password is not valid UTF-8")),
        };
        match verdict {
            Ok(who) => Ok(who),
            Err(response) => Err(self.refuse(response).await),
        }
    }

    /// Asks for the password in clear.
    pub async fn cleartext_password(&mut self) -> Result<Text, HandshakeError> {
        let request = BackendMessage::Authentication(Authentication::CleartextPassword);
        self.connection.writer.put(&request)?;
        let body = self.password_message().await?;
        let password = decode_password(body).map_err(HandshakeError::from);
        self.or_reply(password).await
    }

    /// Sends what is buffered and waits for a `p` message. Exchanges that this crate does not know are made of these.
    pub async fn password_message(&mut self) -> Result<Bytes, HandshakeError> {
        let connection = &mut self.connection;
        let message = before(self.deadline, async {
            connection.writer.flush().await?;
            read_password_message(connection).await
        });
        let message = message.await;
        self.or_reply(message).await
    }

    /// Tells the client that it is welcome. ReadyForQuery is sent by [`crate::serve`].
    pub async fn greet(&mut self, greeting: &Greeting<'_>) -> Result<(), HandshakeError> {
        let writer = &mut self.connection.writer;
        writer.put(&BackendMessage::Authentication(Authentication::Ok))?;
        for (name, value) in greeting.parameters {
            writer.put(&BackendMessage::ParameterStatus { name: (*name).into(), value: (*value).into() })?;
        }
        if let Some((pid, key)) = &greeting.key {
            writer.put(&BackendMessage::BackendKeyData { pid: *pid, key: key.clone() })?;
        }
        before(self.deadline, async { Ok(writer.flush().await?) }).await
    }

    /// Tells the client to go, and returns the error that says so.
    pub async fn refuse(&mut self, response: ErrorResponse) -> HandshakeError {
        self.last_word(response.clone()).await;
        HandshakeError::Refused(response)
    }

    async fn or_reply<T>(&mut self, result: Result<T, HandshakeError>) -> Result<T, HandshakeError> {
        if let Some(response) = result.as_ref().err().and_then(HandshakeError::response) {
            self.last_word(response).await;
        }
        result
    }

    /// That the client is refused matters more than whether it heard of it.
    async fn last_word(&mut self, response: ErrorResponse) {
        let connection = &mut self.connection;
        let sent = before(self.deadline, async {
            connection.send_error(response).await?;
            Ok(connection.writer.shutdown().await?)
        });
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a refused client did not hear why");
        }
    }
}

async fn before<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    timeout_at(deadline, step).await.map_err(|_| HandshakeError::Timeout)?
}

async fn read_password_message<S: Io>(connection: &mut Connection<S>) -> Result<Bytes, HandshakeError> {
    match connection.reader.read_frame(PASSWORD_MESSAGE_BYTES_MAX).await? {
        None => Err(HandshakeError::Closed),
        Some(frame) if frame.tag == b'p' => Ok(frame.body),
        Some(frame) if frame.tag == b'X' => Err(HandshakeError::Closed),
        Some(frame) => Err(ProtocolError::UnknownTag(frame.tag).into()),
    }
}
