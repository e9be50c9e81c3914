//! HTTP client of the control plane: sends one request and reads its reply, whose size has a limit. Used by
//! [`super::HttpControlPlane`], which has the time limits and the retries.
//!
//! Each request has a connection of its own: the proxy's caches make requests rare, and a connection that the service
//! closed in the meantime cannot fail a request. Redirects are not followed, and no proxy is taken from the
//! environment.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::Uri;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, RETRY_AFTER};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use postgres_backend::client::ClientTls;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::token::TokenFile;

/// Longest body of a reply, in bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// Time limit for the TCP connection to the service. All addresses of the service share it: of two addresses, each
/// has two seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Request to the service, without what is the same in all of them.
#[derive(Debug)]
pub(super) struct Request {
    /// Last part of the path.
    pub(super) call: &'static str,
    /// Encoded query.
    pub(super) query: String,
}

/// Reply of the service, of any status.
#[derive(Debug)]
pub(super) struct Response {
    /// HTTP status code.
    pub(super) status: u16,
    /// Pause before the next try, from the header `Retry-After`.
    pub(super) retry_after: Option<Duration>,
    /// The whole body, of at most 64 KiB.
    pub(super) body: Bytes,
}

/// Error in the configured URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("must begin with http:// or https://")]
    Scheme,
    #[error("must have a host and no query")]
    Shape,
    #[error(transparent)]
    Syntax(#[from] hyper::http::uri::InvalidUri),
}

/// Reason why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot connect: {}", root_cause(.0))]
    Connect(#[source] legacy::Error),
    #[error("TLS: {}", root_cause(.0))]
    Tls(#[source] legacy::Error),
    #[error("connection lost: {}", root_cause(.0.as_ref()))]
    Lost(#[source] Box<dyn Error + Send + Sync>),
    #[error("cannot make the request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("reply exceeds 64 KiB")]
    TooLong,
}

impl ClientError {
    /// Whether the next try may meet another server, or a better moment.
    pub(super) const fn is_transient(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Lost(_))
    }
}

/// Client of one service.
#[derive(Debug)]
pub(super) struct Client {
    http: HttpClient,
    /// Scheme, host, port and path, without a slash at its end.
    base: String,
    pub(super) token: Option<Arc<TokenFile>>,
}

/// HTTP client for the scheme of the URL.
#[derive(Debug)]
enum HttpClient {
    Plain(legacy::Client<HttpConnector, Empty<Bytes>>),
    Tls(legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>),
}

impl Client {
    /// Checks the URL. Does not connect. Returns `None` for an `https` URL without `authorities`.
    pub(super) fn new(
        url: &str,
        token: Option<Arc<TokenFile>>,
        authorities: Option<ClientTls>,
    ) -> Result<Option<Self>, UrlError> {
        let url: Uri = url.parse()?;
        let is_https = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        if url.host().is_none_or(str::is_empty) || url.query().is_some() {
            return Err(UrlError::Shape);
        }

        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let http = match (is_https, authorities) {
            (false, _) => HttpClient::Plain(builder.build(tcp)),
            (true, None) => return Ok(None),
            (true, Some(tls)) => {
                tcp.enforce_http(false);
                let connector = HttpsConnectorBuilder::new().with_tls_config((*tls.config).clone());
                HttpClient::Tls(builder.build(connector.https_only().enable_http1().wrap_connector(tcp)))
            }
        };
        Ok(Some(Self { http, base: url.to_string().trim_end_matches('/').to_owned(), token }))
    }

    /// Sends the request once. The caller has the time limit. The header `traceparent` tells the service which login
    /// the request is for.
    pub(super) async fn get(&self, request: &Request) -> Result<Response, ClientError> {
        let span = info_span!("control_plane_request", otel.kind = "client", call = request.call);
        self.send(request).instrument(span).await
    }

    async fn send(&self, request: &Request) -> Result<Response, ClientError> {
        let request = self.http_request(request)?;
        let sending = match &self.http {
            HttpClient::Plain(client) => client.request(request),
            HttpClient::Tls(client) => client.request(request),
        };
        let (head, body) = sending.await.map_err(send_error)?.into_parts();
        let body = Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(body_error)?;
        let retry_after = retry_after(&head.headers);
        Ok(Response { status: head.status.as_u16(), retry_after, body: body.to_bytes() })
    }

    fn http_request(&self, request: &Request) -> Result<hyper::Request<Empty<Bytes>>, ClientError> {
        let url = format!("{}/{}?{}", self.base, request.call, request.query);
        let mut builder = hyper::Request::get(url)
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

fn send_error(error: legacy::Error) -> ClientError {
    if causes(&error).any(|cause| cause.is::<rustls::Error>()) {
        ClientError::Tls(error)
    } else if error.is_connect() {
        ClientError::Connect(error)
    } else {
        ClientError::Lost(error.into())
    }
}

fn body_error(error: Box<dyn Error + Send + Sync>) -> ClientError {
    if error.is::<LengthLimitError>() { ClientError::TooLong } else { ClientError::Lost(error) }
}

/// The last cause, which says what an operator can mend: the layers above it say only "client error".
fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e dyn Error {
    causes(error).last().unwrap_or(error)
}

/// The error and its causes. `io::Error::source` skips the error that it wraps, so that is looked at first.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Reads `Retry-After` in seconds. Its other form, a date, would need clocks that agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
