//! Management port: a small PostgreSQL server that receives the reports of the login page's service.
//!
//! It asks for no password and does no TLS, so it belongs on a network that only that service reaches. A report is a simple
//! query whose text is JSON:
//!
//! ```json
//! {"session_id": "…", "result": {"Success": {"host": "…", "port": 5432, "dbname": "…", "user": "…", "password": "…"}}}
//! {"session_id": "…", "result": {"Failure": "why"}}
//! ```
//!
//! The answer is a row with `ok`, or an error when no client waits under that session id. Called by `server`.

use std::convert::Infallible;
use std::sync::Arc;

use postgres_backend::authentication::Greeting;
use postgres_backend::handshake::{self, Accepted, HandshakeConfig};
use postgres_backend::{
    Answer, Connection, CopyBoth, CopyEnd, Handler, HandshakeError, Io, QueryError, TlsMode, serve,
};
use pq_proto::{ErrorResponse, FieldDescription, SqlState};
use serde::Deserialize;
use tokio::net::TcpListener;
use utils::Shutdown;
use utils::accept_loop::accept_loop;

use super::{Links, Verdict};

/// Serves the port until a drain begins. An error ends its own connection only.
pub(crate) async fn listen(listener: TcpListener, links: Arc<Links>, shutdown: Shutdown) {
    let serve = |stream, peer| {
        let (links, draining) = (Arc::clone(&links), shutdown.draining());
        tokio::spawn(async move {
            if let Err(error) = serve_connection(stream, links, draining).await {
                tracing::info!(%peer, %error, "management connection failed");
            }
        });
    };
    accept_loop(&listener, shutdown.draining(), serve, |error| {
        tracing::warn!(%error, "cannot accept a management connection");
    })
    .await;
}

/// Serves one connection.
async fn serve_connection<S: Io>(
    stream: S,
    links: Arc<Links>,
    draining: impl Future<Output = ()> + Send,
) -> Result<(), HandshakeError> {
    let config = HandshakeConfig::new(TlsMode::Disabled);
    let Accepted::Session(mut session) = handshake::accept(stream, &config).await? else { return Ok(()) };
    let parameters = [
        ("server_version", env!("CARGO_PKG_VERSION")),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
    ];
    session.greet(&Greeting { parameters: &parameters, key: None }).await?;
    serve(session.connection, &mut Management(links), draining).await?;
    Ok(())
}

struct Management(Arc<Links>);

#[derive(Deserialize)]
struct Report {
    session_id: String,
    result: Verdict,
}

/// Passes a report to the client that waits for it, here or in a peer process.
pub(crate) async fn deliver(links: &Links, report: &str) -> Result<(), ErrorResponse> {
    let is_delivered = deliver_here(links, report)?
        || match links.peers.get() {
            Some(peers) => peers.report(report).await,
            None => false,
        };
    let not_waiting =
        || ErrorResponse::error(SqlState::UNDEFINED_OBJECT, "no client waits for this session_id");
    is_delivered.then_some(()).ok_or_else(not_waiting)
}

/// Passes a report on in this process. Returns whether a client waited for it.
pub(crate) fn deliver_here(links: &Links, report: &str) -> Result<bool, ErrorResponse> {
    let report: Report = serde_json::from_str(report).map_err(|error| {
        let message = format!("malformed report: {:?} at column {}", error.classify(), error.column());
        ErrorResponse::error(SqlState::INVALID_PARAMETER_VALUE, message)
    })?;
    Ok(links.report(&report.session_id, report.result))
}

impl<S: Io> Handler<S> for Management {
    type Copy = Infallible;

    /// The report may hold a password: it is neither logged nor repeated.
    async fn query(&mut self, _: &mut Connection<S>, query: &str) -> Result<Answer<Infallible>, QueryError> {
        deliver(&self.0, query).await?;
        Ok(Answer::row([FieldDescription::text("result")], [Some("ok".to_owned())], "SELECT 1"))
    }

    async fn copy_both(&mut self, copy: Infallible, _: CopyBoth<S>) -> CopyEnd<S> {
        match copy {}
    }
}

#[cfg(test)]
mod tests {
    use postgres_backend::client::{Client, ClientError, ConnectOptions};
    use tokio::io::duplex;

    use super::*;
    use crate::link::tests::load;

    #[tokio::test]
    async fn report_reaches_the_client_that_waits_for_it() {
        let links = Arc::new(load("uri = \"http://h/\"").unwrap());
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(serve_connection(theirs, Arc::clone(&links), std::future::pending()));
        let options = ConnectOptions {
            host: "mgmt".into(),
            port: 1,
            user: "console".into(),
            params: Vec::new(),
            password: None,
            tls: None,
        };
        let mut console = Client::open(ours, &options).await.unwrap();
        let mut waiting = links.wait("aa".into()).unwrap();
        for (query, expected) in [
            ("{\"session_id\": \"aa\"", "22023"),
            ("{\"session_id\": \"aa\", \"result\": {\"Success\": {\"password\": \"hunter2\"}}}", "22023"),
            ("{\"session_id\": \"ab\", \"result\": {\"Failure\": \"no\"}}", "42704"),
        ] {
            let Err(ClientError::Server(error)) = console.simple_query(query).await else {
                panic!("{query}")
            };
            assert_eq!(error.sqlstate.to_string(), expected, "{query}");
            assert!(!error.message.contains("hunter2"));
        }
        let report = r#"{"session_id": "aa", "result": {"Success": {"host": "h", "port": 5432, "dbname": "d",
            "user": "u", "password": "p", "aux": {"endpoint_id": "e", "project_id": "p", "branch_id": "b"}}}}"#;
        assert_eq!(console.simple_query(report).await.unwrap().len(), 1);
        assert!(matches!(waiting.verdict.try_recv(), Ok(Verdict::Success(_))));
    }
}
