//! Connecting client: opens TCP, sends the startup packet and authenticates. TLS is in `tls`.

use std::time::Duration;

use pq_proto::authentication::encode_password;
use pq_proto::{Authentication, BackendMessage, FrontendMessage, ProtocolVersion, StartupPacket, Text};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ClientError;
use super::parameters::Parameters;
use super::query::Client;
use super::tls::ClientTls;
use crate::connection::Connection;
use crate::io::Io;
use crate::stream::Stream;

/// Server to connect to, and the role and settings of the session.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name or address of the server.
    pub host: String,
    /// TCP port of the server.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Names and values of further startup parameters: `database`, `replication`, `options`, `application_name`.
    pub params: Vec<(String, String)>,
    /// Sent in clear when the server asks for it.
    pub password: Option<String>,
    /// When set, the client refuses a session without TLS.
    pub tls: Option<ClientTls>,
}

impl Client {
    /// Connects over TCP and waits until the server is ready for a query. [`ClientError::Timeout`] after `within`.
    pub async fn connect(options: &ConnectOptions, within: Duration) -> Result<Self, ClientError> {
        let connecting = Box::pin(async {
            let stream = TcpStream::connect((options.host.as_str(), options.port)).await;
            let stream = stream.map_err(ClientError::Connect)?;
            // Small messages wait for an answer: Nagle's algorithm would hold them back.
            stream.set_nodelay(true).map_err(ClientError::Connect)?;
            Self::open(stream, options).await
        });
        timeout(within, connecting).await.map_err(|_| ClientError::Timeout)?
    }
}

impl<S: Io> Client<S> {
    /// Opens a session on a connected stream. `options.host` only names the certificate here, and the port is not used.
    pub async fn open(stream: S, options: &ConnectOptions) -> Result<Self, ClientError> {
        let stream = match &options.tls {
            None => Stream::Plain(stream),
            Some(tls) => tls.connect(stream, &options.host).await?,
        };
        let connection = Connection::new(stream, bytes::BytesMut::new());
        let mut client = Self { connection, parameters: Parameters::default() };
        client.start(options).await?;
        Ok(client)
    }

    async fn start(&mut self, options: &ConnectOptions) -> Result<(), ClientError> {
        let user = ("user", options.user.as_str());
        let rest = options.params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let params: Vec<_> = std::iter::once(user).chain(rest).collect();
        if params.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(ClientError::ZeroByte("a startup parameter"));
        }
        let params = params.into_iter().collect();

        self.connection
            .writer
            .send(&StartupPacket::Startup { version: ProtocolVersion::V3_0, params })
            .await?;

        loop {
            match self.next_message().await? {
                BackendMessage::Authentication(request) => self.authenticate(request, options).await?,
                BackendMessage::ReadyForQuery(_) => return Ok(()),
                BackendMessage::BackendKeyData { .. } | BackendMessage::NegotiateProtocolVersion { .. } => {}
                BackendMessage::ErrorResponse(response) => return Err(response.into()),
                other => return Err(ClientError::UnexpectedMessage(other.tag())),
            }
        }
    }

    async fn authenticate(
        &mut self,
        request: Authentication,
        options: &ConnectOptions,
    ) -> Result<(), ClientError> {
        let unsupported = match request {
            Authentication::Ok => return Ok(()),
            Authentication::CleartextPassword => {
                let password = options.password.as_deref().ok_or(ClientError::NoPassword)?;
                if password.contains('\0') {
                    return Err(ClientError::ZeroByte("the password"));
                }
                let message = FrontendMessage::PasswordMessage(encode_password(&Text::from(password)));
                return Ok(self.connection.writer.send(&message).await?);
            }
            Authentication::Md5Password { .. } => "md5",
            Authentication::Sasl { .. } | Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                "SASL"
            }
            Authentication::KerberosV5 => "Kerberos V5",
            Authentication::Gss | Authentication::GssContinue(_) | Authentication::Sspi => "GSSAPI or SSPI",
        };
        Err(ClientError::UnsupportedAuthentication(unsupported))
    }
}
