//! One HTTP request and its answer, whose size has a limit. A connection for each: the caches of the proxy make questions
//! rare, and a connection that was closed in the meantime is no case of its own. Used by [`super::HttpControlPlane`].

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::Uri;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use postgres_backend::Io;
use postgres_backend::client::ClientTls;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::token::TokenFile;

/// Longest body of an answer in bytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// For a TCP connection to one address of the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Debug)]
pub(super) struct Request {
    /// The last part of the path.
    pub(super) call: &'static str,
    /// Encoded.
    pub(super) query: String,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// How long to wait before the next try, where a header says so.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// The URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("it does not begin with http:// or https://")]
    Scheme,
    #[error("it has no host, or a query")]
    Shape,
    #[error(transparent)]
    Syntax(#[from] hyper::http::uri::InvalidUri),
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("an answer of more than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
}

impl ClientError {
    /// The next try may meet another server, or a better moment.
    pub(super) const fn passes_by_itself(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Http(_))
    }
}

/// Where the service is.
#[derive(Debug)]
pub(super) struct Client {
    encrypted: bool,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
    pub(super) token: Option<Arc<TokenFile>>,
    tls: Option<ClientTls>,
}

impl Client {
    pub(super) fn new(
        url: &str,
        token: Option<Arc<TokenFile>>,
        tls: Option<ClientTls>,
    ) -> Result<Self, UrlError> {
        let url: Uri = url.parse()?;
        let (encrypted, default_port) = match url.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(UrlError::Scheme),
        };
        let host =
            url.host().filter(|host| !host.is_empty() && url.query().is_none()).ok_or(UrlError::Shape)?;
        Ok(Self {
            encrypted,
            host: host.to_owned(),
            port: url.port_u16().unwrap_or(default_port),
            path: url.path().trim_end_matches('/').to_owned(),
            token,
            tls,
        })
    }

    pub(super) const fn lacks_authorities(&self) -> bool {
        self.encrypted && self.tls.is_none()
    }

    /// Asks once. The caller has the time limit. The service can tell by `traceparent` which login it was for.
    pub(super) async fn get(&self, request: &Request) -> Result<Response, ClientError> {
        let span = info_span!("control_plane_request", otel.kind = "client", call = request.call);
        self.connect_and_exchange(request).instrument(span).await
    }

    async fn connect_and_exchange(&self, request: &Request) -> Result<Response, ClientError> {
        let stream = self.connect().await?;
        let Some(tls) = self.tls.as_ref().filter(|_| self.encrypted) else {
            return self.exchange(stream, request).await;
        };
        let name = ServerName::try_from(self.bare_host().to_owned())
            .map_err(|error| ClientError::Tls(io::Error::other(error)))?;
        let connecting = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream);
        self.exchange(connecting.await.map_err(ClientError::Tls)?, request).await
    }

    async fn connect(&self) -> Result<TcpStream, ClientError> {
        let mut last = io::ErrorKind::NotFound.into();
        let addresses = tokio::net::lookup_host((self.bare_host(), self.port)).await;
        for address in addresses.map_err(ClientError::Connect)? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(ClientError::Connect(last))
    }

    /// An IPv6 address stands in brackets in a URL, and only there.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    async fn exchange(&self, stream: impl Io, request: &Request) -> Result<Response, ClientError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = self.http_request(request)?;
        let mut answer = pin!(async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await.map_err(too_long_or_lost)?;
            let retry_after = retry_after(&head.headers);
            Ok(Response { status: head.status.as_u16(), retry_after, body: body.to_bytes() })
        });
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // The answer may have arrived as a whole before the end.
            result = &mut connection => result?,
        }
        answer.await
    }

    fn http_request(&self, request: &Request) -> Result<hyper::Request<Empty<Bytes>>, ClientError> {
        let target = format!("{}/{}?{}", self.path, request.call, request.query);
        let mut builder = hyper::Request::get(target)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(ACCEPT, "application/json")
            .header("x-request-id", Uuid::new_v4().to_string());
        if let Some(trace) = telemetry::traceparent() {
            builder = builder.header("traceparent", trace);
        }
        if let Some(token) = self.token.as_ref().and_then(|token| token.header()) {
            builder = builder.header(AUTHORIZATION, token);
        }
        Ok(builder.body(Empty::new())?)
    }
}

fn too_long_or_lost(error: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
    match error.downcast::<hyper::Error>() {
        Ok(error) => ClientError::Http(*error),
        Err(other) if other.is::<LengthLimitError>() => ClientError::TooLong,
        Err(other) => ClientError::Connect(io::Error::other(other)),
    }
}

/// Seconds only: the other form, a date, needs clocks that agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
