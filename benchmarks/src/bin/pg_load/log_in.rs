//! Login of a client: TLS and SCRAM-SHA-256 up to ReadyForQuery. The keys of the password are derived once, so that the
//! load generator's PBKDF2 takes no time from the server that is measured.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use parking_lot::Mutex;
use postgres_backend::client::ClientTls;
use postgres_backend::{Connection, Stream};
use pq_proto::authentication::SaslInitialResponse;
use pq_proto::{Authentication, BackendMessage, FrontendMessage, ProtocolVersion, StartupPacket};
use rustls::client::Resumption;
use scram::{NONCE_BYTES, SCRAM_SHA_256, ScramKeys, client};
use tokio::net::TcpStream;

/// Longest message before ReadyForQuery, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Where and as whom to log in.
#[derive(Debug, Args)]
pub(crate) struct TargetFlags {
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    target: SocketAddr,

    /// Uses TLS; the certificate is not checked
    #[arg(long)]
    tls: bool,

    /// Server name in the TLS handshake
    #[arg(long, value_name = "NAME", default_value = "main.db.test")]
    server_name: String,

    /// Role
    #[arg(long, default_value = "app")]
    user: String,

    /// Database
    #[arg(long, default_value = "app")]
    database: String,

    /// Password
    #[arg(long, default_value = "")]
    password: String,

    /// Startup parameter `options`, for example endpoint=main
    #[arg(long)]
    options: Option<String>,
}

/// A server, and the keys of the password by the server's salt and iterations.
#[derive(Debug)]
pub(crate) struct Target {
    flags: TargetFlags,
    tls: Option<ClientTls>,
    keys: Mutex<HashMap<String, ScramKeys>>,
}

/// An open session that waits for its first query.
pub(crate) type Session = Connection<TcpStream>;

impl Target {
    /// Prepares TLS. No session is resumed, as libpq resumes none.
    pub(crate) fn new(flags: TargetFlags) -> Result<Self> {
        let tls = flags.tls.then(|| -> Result<ClientTls> {
            let mut tls = ClientTls::require()?;
            Arc::make_mut(&mut tls.config).resumption = Resumption::disabled();
            Ok(tls)
        });
        Ok(Self { tls: tls.transpose()?, flags, keys: Mutex::default() })
    }

    /// Opens a TCP connection and says nothing.
    pub(crate) async fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.flags.target).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Logs in.
    pub(crate) async fn log_in(&self) -> Result<Session> {
        let stream = self.connect().await?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(tls) => tls.connect(stream, &self.flags.server_name).await?,
        };

        let mut session = Connection::new(stream, BytesMut::new());
        session.writer.send(&self.startup_packet()).await?;
        loop {
            match next(&mut session).await? {
                BackendMessage::Authentication(Authentication::Ok) => {}
                BackendMessage::Authentication(Authentication::Sasl { .. }) => {
                    self.prove(&mut session).await?
                }
                BackendMessage::ReadyForQuery(_) => return Ok(session),
                BackendMessage::ParameterStatus { .. } | BackendMessage::BackendKeyData { .. } => {}
                other => bail!("unexpected message {:?} during the login", char::from(other.tag())),
            }
        }
    }

    fn startup_packet(&self) -> StartupPacket {
        let options = self.flags.options.as_deref().map(|options| ("options", options));
        let fixed = [("user", self.flags.user.as_str()), ("database", self.flags.database.as_str())];
        let params = fixed.into_iter().chain(options).collect();
        StartupPacket::Startup { version: ProtocolVersion::V3_0, params }
    }

    async fn prove(&self, session: &mut Session) -> Result<()> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).context("no randomness from the operating system")?;
        let exchange = client::Exchange::new(&nonce);
        let first = SaslInitialResponse {
            mechanism: SCRAM_SHA_256.into(),
            data: Some(Bytes::copy_from_slice(exchange.client_first().as_bytes())),
        };
        session.writer.send(&FrontendMessage::PasswordMessage(first.encode()?)).await?;

        let challenge = next(session).await?;
        let BackendMessage::Authentication(Authentication::SaslContinue(challenge)) = challenge else {
            bail!("expected a SCRAM challenge, got {challenge:?}");
        };
        let challenge = str::from_utf8(&challenge)?;
        let proof = exchange.prove(challenge, self.keys(challenge)?)?;
        let answer = Bytes::copy_from_slice(proof.client_final().as_bytes());
        session.writer.send(&FrontendMessage::PasswordMessage(answer)).await?;

        let signature = next(session).await?;
        let BackendMessage::Authentication(Authentication::SaslFinal(signature)) = signature else {
            bail!("expected SCRAM's last message, got {signature:?}");
        };
        Ok(proof.verify_server(str::from_utf8(&signature)?)?)
    }

    /// The keys for the salt and the iterations of a challenge, which follow its nonce.
    fn keys(&self, challenge: &str) -> Result<ScramKeys> {
        let (_, parameters) = challenge.split_once(',').context("SCRAM challenge without a salt")?;
        let mut keys = self.keys.lock();
        if let Some(keys) = keys.get(parameters) {
            return Ok(*keys);
        }
        let derived = client::derive_keys(challenge, self.flags.password.as_bytes())?;
        keys.insert(parameters.to_owned(), derived);
        Ok(derived)
    }
}

/// Says goodbye and closes, as libpq does.
pub(crate) async fn log_out(mut session: Session) -> Result<()> {
    session.writer.put(&FrontendMessage::Terminate)?;
    Ok(session.writer.shutdown().await?)
}

async fn next(session: &mut Session) -> Result<BackendMessage> {
    let frame =
        session.reader.read_frame(MESSAGE_BYTES_MAX).await?.context("the server closed the connection")?;
    match BackendMessage::decode(frame)? {
        BackendMessage::ErrorResponse(response) => bail!("the server refuses the login: {response}"),
        message => Ok(message),
    }
}
