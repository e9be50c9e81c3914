//! Moved compute: its cached address is no longer valid.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use test_runner::env::TestEnvironment;
use test_runner::ports;
use test_runner::proxied_postgres::{ProxiedOptions, ProxiedPostgres, copy_database, verifiers};

use super::control_plane::ControlPlane;

/// Time limit for the stop of PostgreSQL.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn moved_compute_is_found_without_a_client_error() -> Result<()> {
    let environment = TestEnvironment::new("clients-moved")?;
    let postgres = copy_database(&environment.tools, &environment.directory).await?;
    let process = postgres.start(&[]).await?;
    let known = verifiers(&postgres).await?;
    let address = format!("127.0.0.1:{}", postgres.port);
    let (service, control_plane) = ControlPlane::start(&environment.directory, known, &address, None).await?;
    let options = ProxiedOptions { control_plane: Some(control_plane), log_level: Some("info,proxy=debug") };
    let proxied = ProxiedPostgres::proxy_only(postgres.clone(), &options).await?;
    let ask = async || {
        anyhow::Ok(proxied.connect("crowd").await?.query_one("SHOW port", &[]).await?.get::<_, String>(0))
    };
    ensure!(ask().await? == postgres.port.to_string() && service.wakes() == 1);
    ensure!(ask().await? == postgres.port.to_string() && service.wakes() == 1, "the address was not cached");

    process.end(Signal::SIGINT, DEADLINE).await?;
    let elsewhere = test_runner::postgres::Postgres { port: ports::pick()?, ..postgres };
    let process = elsewhere.start(&[]).await?;
    service.moved_to(&format!("127.0.0.1:{}", elsewhere.port))?;
    ensure!(ask().await? == elsewhere.port.to_string());
    ensure!(service.wakes() == 2, "{} wakes", service.wakes());
    let log = fs::read_to_string(environment.directory.join("proxy.log"))?;
    let failed = log.lines().filter(|line| line.contains("cannot log in at the compute")).count();
    ensure!(failed == 1, "{failed} connects failed");
    let cached = proxied.http("/v1/cache").await?;
    ensure!(cached.contains(&format!(":{}\"", elsewhere.port)) && !cached.contains(&address), "{cached}");
    ensure!(ask().await? == elsewhere.port.to_string() && service.wakes() == 2);
    proxied.stop().await?;
    process.end(Signal::SIGQUIT, DEADLINE).await?;
    environment.passed();
    Ok(())
}
