//! [`HttpClient`]: asks one program over HTTP, with a time limit and a limit of size. Called by every command.
//!
//! Each request has a connection of its own. Redirects are not followed: they could take the token elsewhere. No proxy is
//! taken from the environment.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use crate::cluster_file::Target;
use crate::table::printable;

/// Longest answer in bytes: the list of 50,000 timelines of one safekeeper.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Programs of one kind that are asked at the same time. `status` asks three kinds, with up to three connections each, and a
/// process usually has 1024 descriptors.
const ASKED_AT_ONCE_MAX: usize = 100;
/// Characters of an unexpected answer that an error quotes.
const QUOTED_CHARS_MAX: usize = 300;

/// Asks programs.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    /// Time for one answer.
    timeout: Duration,
}

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    body: Bytes,
}

/// Reason for which a program gave no usable answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("{0}")]
    Connection(String),
    #[error("wants a token: add token_file to the cluster file")]
    TokenMissing,
    #[error("refuses the token of token_file in the cluster file")]
    TokenWrong,
    #[error("answers {status} to {path}: {text}")]
    Status { status: StatusCode, path: String, text: String },
    #[error("its version does not list slots: upgrade it")]
    NoSlots,
    #[error("answer to {path} exceeds {} MiB", ANSWER_BYTES_MAX >> 20)]
    TooLong { path: String },
    #[error("answer to {path} is not the documented JSON ({error}): is another program listening there?")]
    NotJson { path: String, error: serde_json::Error },
}

impl HttpClient {
    pub(crate) const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// The JSON document at this path.
    pub(crate) async fn get<T: DeserializeOwned>(&self, target: &Target, path: &str) -> Result<T, AskError> {
        let answer = self.send(target, Method::GET, path, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(answer.unexpected(path));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| AskError::NotJson { path: path.to_owned(), error })
    }

    /// `Ok(None)` when the program is ready, else its reason.
    pub(crate) async fn readiness(&self, target: &Target) -> Result<Option<String>, AskError> {
        const PATH: &str = "/readyz";
        let answer = self.send(target, Method::GET, PATH, Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(None),
            StatusCode::SERVICE_UNAVAILABLE => Ok(Some(answer.quoted())),
            _ => Err(answer.unexpected(PATH)),
        }
    }

    /// Sends a request with the target's token. A body is JSON. Refused tokens are errors; other answers are returned.
    pub(crate) async fn send(
        &self,
        target: &Target,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, AskError> {
        let answered = timeout(self.timeout, exchange(target, method, path, body)).await;
        let answer = answered.map_err(|_| AskError::Timeout(self.timeout))??;
        match (answer.status, &target.token) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => Err(AskError::TokenMissing),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(_)) => Err(AskError::TokenWrong),
            _ => Ok(answer),
        }
    }
}

impl Answer {
    /// The body as JSON; null when it is something else.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// An error that quotes the body. Errors of the programs are `{"error": "…"}`.
    pub(crate) fn unexpected(&self, path: &str) -> AskError {
        let json = self.json();
        let text = json["error"].as_str().map_or_else(|| self.quoted(), printable);
        AskError::Status { status: self.status, path: path.to_owned(), text }
    }

    fn quoted(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        printable(&text.trim().chars().take(QUOTED_CHARS_MAX).collect::<String>())
    }
}

async fn exchange(target: &Target, method: Method, path: &str, body: Bytes) -> Result<Answer, AskError> {
    let broken = |error: &dyn Error| AskError::Connection(root_cause(error));
    let tls = match &target.tls {
        Some(tls) => Arc::clone(tls),
        None => trusts_nobody().map_err(|error| broken(&error))?,
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config((*tls).clone());
    let connector = connector.https_or_http().enable_http1().wrap_connector(tcp);
    let client = legacy::Client::builder(TokioExecutor::new()).build(connector);

    let mut request = hyper::Request::builder()
        .method(method)
        .uri(format!("{}{path}", target.http.text))
        .header(ACCEPT, "application/json");
    if let Some(token) = &target.token {
        request = request.header(AUTHORIZATION, token.header());
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body)).map_err(|error| broken(&error))?;

    let (head, body) = client.request(request).await.map_err(|error| broken(&error))?.into_parts();
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => Ok(Answer { status: head.status, body: body.to_bytes() }),
        Err(error) if error.is::<LengthLimitError>() => Err(AskError::TooLong { path: path.to_owned() }),
        Err(error) => Err(broken(error.as_ref())),
    }
}

/// For `http` URLs, which have no certificates.
fn trusts_nobody() -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

/// The innermost cause. The layers above it say only "client error", and in the end is a number that only the system knows.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    printable(text)
}

/// Asks all targets at the same time. The answers have the order of the targets.
pub(crate) async fn ask_all<T, F: Future>(targets: &[T], ask: impl Fn(usize) -> F) -> Vec<F::Output> {
    futures::stream::iter(0..targets.len()).map(ask).buffered(ASKED_AT_ONCE_MAX).collect().await
}

#[cfg(test)]
mod tests;
