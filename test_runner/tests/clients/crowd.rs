//! Crowd: a thousand clients connect at once while the compute sleeps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use nix::sys::signal::Signal;
use test_runner::env::TestEnvironment;
use test_runner::proxied_postgres::{ProxiedOptions, ProxiedPostgres, copy_database, verifiers};
use test_runner::wait::until;
use tokio::sync::mpsc;

use super::control_plane::ControlPlane;

/// Number of clients.
const CROWD: usize = 1_000;
/// Clients that connect at the same moment.
const GROUP: usize = 100;
/// Time limit for every wait of the test.
const DEADLINE: Duration = Duration::from_secs(120);

/// All clients are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_clients_cost_one_wake() -> Result<()> {
    let environment = TestEnvironment::new("clients-crowd")?;
    let postgres = copy_database(&environment.tools, &environment.directory).await?;
    let settings = [("max_connections", (CROWD + 20).to_string()), ("shared_buffers", "16MB".into())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let process = postgres.start(&settings).await?;
    let known = verifiers(&postgres).await?;
    let (at_wake, mut wakes) = mpsc::unbounded_channel();
    let address = format!("127.0.0.1:{}", postgres.port);
    let (service, control_plane) =
        ControlPlane::start(&environment.directory, known, &address, Some(at_wake)).await?;
    let options = ProxiedOptions { control_plane: Some(control_plane), ..ProxiedOptions::default() };
    process.end(Signal::SIGINT, DEADLINE).await?;
    let proxied = ProxiedPostgres::proxy_only(postgres.clone(), &options).await?;

    let (config, tls) = (proxied.config("crowd"), proxied.tls()?);
    let mut clients = Vec::new();
    // Clients connect in groups, so that a TLS handshake does not wait for a thousand others. All are connected before
    // the wake ends.
    for _ in 0..CROWD / GROUP {
        clients.extend((0..GROUP).map(|_| {
            let (config, tls) = (config.clone(), tls.clone());
            tokio::spawn(async move { config.connect(tls).await })
        }));
        until("the group to be let in", DEADLINE, async || {
            let sessions = proxied.http("/v1/sessions").await.unwrap_or_default();
            let waiting = sessions.matches("\"state\":\"connecting\"").count();
            Ok((waiting == clients.len()).then_some(()))
        })
        .await?;
    }
    let wake = tokio::time::timeout(DEADLINE, wakes.recv()).await?.context("the service is gone")?;
    let process = postgres.start(&settings).await?;
    ensure!(wake.send(()).is_ok(), "the service gave up");

    let mut sessions = Vec::new();
    for client in clients {
        let (client, connection) =
            tokio::time::timeout(DEADLINE, client).await.context("a client still waits")???;
        tokio::spawn(connection);
        sessions.push(client);
    }
    let answers = join_all(sessions.iter().map(|client| client.query_one("SELECT 42", &[]))).await;
    for answer in answers {
        ensure!(answer?.get::<_, i32>(0) == 42);
    }
    ensure!(service.wakes() == 1, "{} wakes", service.wakes());
    ensure!(proxied.metric("holdfast_proxy_sessions").await? as usize == CROWD);
    drop(sessions);
    proxied.stop().await?;
    process.end(Signal::SIGQUIT, DEADLINE).await?;
    environment.passed();
    Ok(())
}
