//! TLS on the PostgreSQL port.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use consensus::Dialect;
use postgres_backend::ServerTls;
use postgres_backend::client::{Client, ClientError, ClientTls, ConnectOptions};
use pq_proto::SqlState;
use rustls::{ClientConfig, RootCertStore};
use safekeeper::Config;

use crate::support::{PATIENCE, Server, config, timeline};

/// A server with a certificate for `localhost`, and the configuration of a client that trusts it.
pub(crate) async fn server_with_certificate(directory: &Path) -> (Server, Arc<ClientConfig>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&certificate, certified.cert.pem()).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let tls = Some(ServerTls::from_pem_files(&certificate, &key).unwrap());
    let server = Server::start_with(Config { tls, ..config(&directory.join("data")) }).await;

    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (server, Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_requires_encrypted_connections() {
    let directory = tempfile::tempdir().unwrap();
    let (server, config) = server_with_certificate(directory.path()).await;
    server.at.create(timeline(1), Dialect::Holdfast).await;

    match server.at.try_connect(&[], None).await {
        Err(ClientError::Server(error)) => assert_eq!(error.sqlstate, SqlState::INVALID_AUTHORIZATION),
        other => panic!("{other:?}"),
    }
    let options = ConnectOptions {
        host: server.at.pg.ip().to_string(),
        port: server.at.pg.port(),
        user: "any".into(),
        params: Vec::new(),
        password: None,
        tls: Some(ClientTls { config, server_name: Some("localhost".into()) }),
    };
    let mut client = Client::connect(&options, PATIENCE).await.unwrap();
    assert_eq!(client.simple_query("IDENTIFY_SYSTEM").await.unwrap().len(), 1);
    server.stop().await;
}
