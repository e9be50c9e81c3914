//! Tests of the harness: PostgreSQL is created, started, stopped, started again, and refuses what it cannot serve.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use test_runner::cluster::ClusterOptions;
use test_runner::cluster_under_test::ClusterUnderTest;

#[tokio::test]
async fn postgres_starts_from_template_and_keeps_rows() -> Result<()> {
    let test = ClusterUnderTest::prepare("primary", ClusterOptions::default()).await?;
    let (template, password) = test.cluster.options.template.clone().unwrap();
    let mut postgres = test.cluster.postgres();
    postgres.superuser_password = password;
    postgres.copy_from(&template).await?;
    let process = postgres.start(&[]).await?;
    postgres.connect("postgres").await?.batch_execute("CREATE TABLE t AS SELECT 42 AS x").await?;
    process.end(Signal::SIGINT, Duration::from_secs(30)).await?;
    let process = postgres.start(&[]).await?;
    assert_eq!(postgres.ask("postgres", "SELECT x FROM t").await?, "42");
    process.end(Signal::SIGINT, Duration::from_secs(30)).await?;
    assert!(postgres.last_checkpoint().await?.is_valid());
    test.passed();
    Ok(())
}

/// Each refusal is one sentence.
#[tokio::test]
async fn postgres_refuses_taken_port_and_foreign_directory() -> Result<()> {
    let test = ClusterUnderTest::prepare("refusals", ClusterOptions::default()).await?;
    let (template, _) = test.cluster.options.template.clone().unwrap();
    let postgres = test.cluster.postgres();
    assert!(postgres.start(&[]).await.unwrap_err().to_string().contains("not a PostgreSQL data directory"));
    postgres.copy_from(&template).await?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", postgres.port))?;
    assert!(postgres.start(&[]).await.unwrap_err().to_string().contains("is taken"));
    drop(listener);
    std::fs::write(postgres.data_dir.join("PG_VERSION"), "9\n")?;
    assert!(postgres.start(&[]).await.unwrap_err().to_string().contains("belongs to PostgreSQL 9"));
    test.passed();
    Ok(())
}
