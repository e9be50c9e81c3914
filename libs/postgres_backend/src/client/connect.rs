//! The client's opening: TCP, TLS, startup, authentication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pq_proto::authentication::encode_password;
use pq_proto::{
    Authentication, BackendMessage, FramedReader, FrontendMessage, ProtocolVersion, StartupPacket, Text,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Client, ClientError};
use crate::connection::Connection;
use crate::stream::{Io, Prefixed, Stream};

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Every other startup parameter: `database`, `replication`, `options`, `application_name`.
    pub params: Vec<(String, String)>,
    /// Sent in clear when the server asks for it.
    pub password: Option<String>,
    /// When given, a session without TLS is refused.
    pub tls: Option<ClientTls>,
}

/// How the client does TLS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Which certificates it trusts.
    pub config: Arc<ClientConfig>,
    /// The name that the certificate must be for; the host when `None`.
    pub server_name: Option<String>,
}

impl ClientTls {
    /// Asks the server for TLS and begins it. `host` is the name of the certificate unless another one is given.
    pub async fn connect<S: Io>(&self, mut stream: S, host: &str) -> Result<Stream<S>, ClientError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName(name.to_owned()))?;
        let mut request = bytes::BytesMut::new();
        pq_proto::Encode::encode(&StartupPacket::Ssl, &mut request)?;
        stream.write_all(&request).await?;
        stream.flush().await?;
        let mut reader = FramedReader::new(stream);
        // An error text from before TLS may be anybody's: it is not shown (CVE-2024-10977).
        if reader.byte().await?.ok_or(ClientError::Closed)? != b'S' {
            return Err(ClientError::TlsRefused);
        }
        // The server waits for the client's first TLS record: whatever follows the answer is not from it (CVE-2021-23222).
        if !reader.buffered().is_empty() {
            return Err(ClientError::UnencryptedData);
        }
        let (stream, read_before) = reader.into_parts();
        let connecting = TlsConnector::from(Arc::clone(&self.config))
            .connect(server_name, Prefixed::new(read_before, stream));
        let stream = connecting.await.map_err(ClientError::Tls)?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl Client {
    /// Connects over TCP and waits until the server is ready for a query, all within `within`.
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
    /// Opens a session on a stream that is connected already. Host and port are not looked at but for TLS.
    pub async fn open(stream: S, options: &ConnectOptions) -> Result<Self, ClientError> {
        let stream = match &options.tls {
            None => Stream::Plain(stream),
            Some(tls) => tls.connect(stream, &options.host).await?,
        };
        let connection = Connection::new(stream, bytes::BytesMut::new());
        let mut client = Self { connection, parameters: BTreeMap::new() };
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
