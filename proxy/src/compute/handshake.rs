//! Compute handshake: logs in with the client's recovered SCRAM key, and keeps the compute's greeting for the client.
//!
//! The greeting is everything from the login to the first ReadyForQuery, byte for byte.

use bytes::{Bytes, BytesMut};
use postgres_backend::{Connection, Io, Stream};
use pq_proto::authentication::SaslInitialResponse;
use pq_proto::{
    Authentication, BackendMessage, Encode, ErrorResponse, Frame, FrontendMessage, ProtocolVersion,
    StartupPacket, StartupParams, Text,
};
use rand::Rng;
use scram::{Credentials, NONCE_BYTES, SCRAM_SHA_256, ScramKeys, client};

use super::error::{ComputeError, Refusal};

/// Longest message of a compute before its first ReadyForQuery, in bytes.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// All messages before ReadyForQuery together, in bytes: settings, and notices of login triggers.
const GREETING_BYTES_MAX: usize = 1024 * 1024;

/// The role, parameters and credentials to log in with.
#[derive(Debug)]
pub(crate) struct Login {
    /// The client's startup parameters, without those that routing consumed.
    pub(crate) params: StartupParams,
    pub(crate) credentials: Credentials,
}

/// A session at a compute that waits for its first query.
#[derive(Debug)]
pub(crate) struct LoggedIn<S> {
    pub(crate) connection: Connection<S>,
    /// Settings and notices, byte for byte.
    pub(crate) greeting: BytesMut,
    /// Process id and secret for a cancel request to the compute.
    pub(crate) key: Option<(i32, Bytes)>,
    /// ReadyForQuery.
    pub(crate) ready: Frame,
}

/// Logs in. `database` is for clients that named none.
pub(crate) async fn log_in<S: Io>(
    stream: Stream<S>,
    login: &Login,
    database: Option<&Text>,
    random: &mut (impl Rng + Send),
) -> Result<LoggedIn<S>, ComputeError> {
    let mut exchange =
        LoginExchange { connection: Connection::new(stream, BytesMut::new()), greeting: BytesMut::new() };
    let params = with_database(&login.params, database);
    exchange.send(&StartupPacket::Startup { version: ProtocolVersion::V3_0, params }).await?;
    match exchange.authentication().await? {
        Authentication::Ok => {}
        Authentication::Sasl { mechanisms } if mechanisms.iter().any(|name| *name == SCRAM_SHA_256) => {
            exchange.prove(&login.credentials, random).await?;
        }
        _ => return Err(ComputeError::Authentication),
    }
    let mut key = None;
    loop {
        let frame = exchange.next().await?;
        match frame.tag {
            b'Z' => {
                let LoginExchange { connection, greeting } = exchange;
                return Ok(LoggedIn { connection, greeting, key, ready: frame });
            }
            b'K' => match BackendMessage::decode(frame) {
                // Copied: a slice would keep the whole buffer that it was read into for as long as the session lives.
                Ok(BackendMessage::BackendKeyData { pid, key: secret }) => {
                    key = Some((pid, Bytes::copy_from_slice(&secret)));
                }
                _ => return Err(ComputeError::Protocol("malformed BackendKeyData".into())),
            },
            b'S' => exchange.put_greeting(&frame)?,
            tag => return Err(unexpected(tag)),
        }
    }
}

fn with_database(params: &StartupParams, database: Option<&Text>) -> StartupParams {
    let default = database.filter(|_| params.get("database").is_none());
    let pairs = params.iter().map(|(name, value)| (name.clone(), value.clone()));
    pairs.chain(default.map(|name| (Text::from("database"), name.clone()))).collect()
}

/// A connection during the login, and the greeting kept so far.
struct LoginExchange<S> {
    connection: Connection<S>,
    greeting: BytesMut,
}

impl<S: Io> LoginExchange<S> {
    /// Proves to the compute that the proxy holds the key of the password, and checks the compute's proof that it
    /// holds the verifier.
    async fn prove(
        &mut self,
        credentials: &Credentials,
        random: &mut (impl Rng + Send),
    ) -> Result<(), ComputeError> {
        let mut nonce = [0; NONCE_BYTES];
        random.fill_bytes(&mut nonce);
        let exchange = client::Exchange::new(&nonce);
        let first = SaslInitialResponse {
            mechanism: SCRAM_SHA_256.into(),
            data: Some(Bytes::copy_from_slice(exchange.client_first().as_bytes())),
        };
        let first = first.encode().map_err(|error| ComputeError::Protocol(error.to_string()))?;
        self.send(&FrontendMessage::PasswordMessage(first)).await?;

        let Authentication::SaslContinue(challenge) = self.authentication().await? else {
            return Err(ComputeError::Authentication);
        };
        let challenge = text(&challenge)?;
        let proof = exchange.prove(challenge, keys_of(credentials, challenge).await?)?;
        let client_final = Bytes::copy_from_slice(proof.client_final().as_bytes());
        self.send(&FrontendMessage::PasswordMessage(client_final)).await?;

        let Authentication::SaslFinal(signature) = self.authentication().await? else {
            return Err(ComputeError::Authentication);
        };
        proof.verify_server(text(&signature)?)?;
        match self.authentication().await? {
            Authentication::Ok => Ok(()),
            _ => Err(ComputeError::Authentication),
        }
    }

    async fn authentication(&mut self) -> Result<Authentication, ComputeError> {
        let frame = self.next().await?;
        let tag = frame.tag;
        match BackendMessage::decode(frame) {
            Ok(BackendMessage::Authentication(request)) => Ok(request),
            Ok(_) => Err(unexpected(tag)),
            Err(error) => Err(ComputeError::Protocol(error.to_string())),
        }
    }

    /// The next message that is neither a notice, which is kept for the client, nor a refusal.
    async fn next(&mut self) -> Result<Frame, ComputeError> {
        loop {
            let frame = self.connection.reader.read_frame(LOGIN_MESSAGE_BYTES_MAX).await;
            let frame = frame.map_err(ComputeError::from_stream)?;
            let frame = frame.ok_or_else(|| ComputeError::Lost(std::io::ErrorKind::UnexpectedEof.into()))?;
            match frame.tag {
                b'N' => self.put_greeting(&frame)?,
                b'E' => {
                    let error = ErrorResponse::decode(frame.body.clone())
                        .map_err(|error| ComputeError::Protocol(error.to_string()))?;
                    return Err(ComputeError::Refused(Box::new(Refusal { error, frame })));
                }
                _ => return Ok(frame),
            }
        }
    }

    async fn send(&mut self, message: &impl Encode) -> Result<(), ComputeError> {
        self.connection.writer.send(message).await.map_err(ComputeError::from_stream)
    }

    fn put_greeting(&mut self, message: &impl Encode) -> Result<(), ComputeError> {
        message.encode(&mut self.greeting).map_err(|error| ComputeError::Protocol(error.to_string()))?;
        if self.greeting.len() > GREETING_BYTES_MAX {
            return Err(ComputeError::Protocol(format!(
                "more than {GREETING_BYTES_MAX} bytes before ReadyForQuery"
            )));
        }
        Ok(())
    }
}

/// The keys for a challenge. A password is hashed on a blocking thread.
async fn keys_of(credentials: &Credentials, challenge: &str) -> Result<ScramKeys, ComputeError> {
    match credentials {
        Credentials::Keys(keys) => Ok(*keys),
        Credentials::Password(password) => {
            let (challenge, password) = (challenge.to_owned(), password.clone());
            let hashing = tokio::task::spawn_blocking(move || client::derive_keys(&challenge, &password));
            // Joining fails only when the program ends.
            Ok(hashing.await.map_err(|_| ComputeError::Protocol("interrupted".into()))??)
        }
    }
}

fn unexpected(tag: u8) -> ComputeError {
    ComputeError::Protocol(format!("message {:?} during the login", char::from(tag)))
}

fn text(bytes: &[u8]) -> Result<&str, ComputeError> {
    str::from_utf8(bytes).map_err(|_| ComputeError::Protocol("SCRAM message is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use pq_proto::TransactionStatus;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// The key lives as long as the session; the buffer that it was read into is needed no longer than the login.
    #[tokio::test]
    async fn cancel_key_shares_no_read_buffer() {
        let (proxy, mut compute) = duplex(64 * 1024);
        let mut answer = BytesMut::new();
        for message in [
            BackendMessage::Authentication(Authentication::Ok),
            BackendMessage::BackendKeyData { pid: 7, key: Bytes::from_static(b"abcd") },
            BackendMessage::ReadyForQuery(TransactionStatus::Idle),
        ] {
            message.encode(&mut answer).unwrap();
        }
        compute.write_all(&answer).await.unwrap();
        let login = Login {
            params: [("user", "app")].into_iter().collect(),
            credentials: Credentials::Password(Bytes::new()),
        };
        let mut random = StdRng::seed_from_u64(1);
        let logged_in = log_in(Stream::Plain(proxy), &login, None, &mut random).await.unwrap();
        let (pid, key) = logged_in.key.unwrap();
        assert_eq!((pid, &key[..]), (7, &b"abcd"[..]));
        assert!(key.is_unique(), "the key keeps the whole buffer");
        drop(compute.read(&mut [0; 1]).await);
    }
}
