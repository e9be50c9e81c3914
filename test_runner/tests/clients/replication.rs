//! Replication connections through the proxy: `pg_receivewal`, `pg_basebackup` and logical replication.

use std::fs;

use anyhow::{Context, Result, ensure};
use test_runner::proxied_postgres::run;

use super::Installation;

#[tokio::test]
async fn base_backup_and_wal_pass_the_proxy_whole() -> Result<()> {
    let Installation { proxied, environment } = Installation::new("replication").await?;
    let tool = |name: &str| environment.tools.postgres(name);
    let superuser = proxied.connect_directly("postgres").await?;
    let rows = "CREATE TABLE t AS SELECT g, repeat(md5(g::text), 10) AS x FROM generate_series(1, 10000) g";

    let wal = environment.directory.join("wal");
    fs::create_dir(&wal)?;
    let ask = async |query: &str| anyhow::Ok(superuser.query_one(query, &[]).await?.get::<_, String>(0));
    let (slot, directory) = ("--slot=through_the_proxy", wal.display().to_string());
    let reserve =
        "SELECT slot_name::text FROM pg_create_physical_replication_slot('through_the_proxy', true)";
    ask(reserve).await?;
    let segment = ask("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    superuser.batch_execute(rows).await?;
    let end = ask("SELECT pg_switch_wal()::text").await?;
    let arguments = ["-D", &directory, slot, "--synchronous", "--no-loop", "--endpos", &end];
    run(&proxied, "postgres", &tool("pg_receivewal"), &arguments).await?;
    let received = [segment.clone(), format!("{segment}.partial")].map(|name| fs::read(wal.join(name)).ok());
    let received = received.into_iter().flatten().next().context("the segment was not received")?;
    let original = fs::read(proxied.postgres.data_dir.join("pg_wal").join(&segment))?;
    let position = usize::from_str_radix(end.split('/').next_back().context("no LSN")?, 16)? % (16 << 20);
    ensure!(position > 1 << 20 && received.get(..position) == original.get(..position), "{segment} to {end}");

    let backup = environment.directory.join("backup").display().to_string();
    let arguments = ["-D", &backup, "-X", "stream", "-c", "fast", "--no-sync"];
    run(&proxied, "postgres", &tool("pg_basebackup"), &arguments).await?;
    let verified = run(&proxied, "postgres", &tool("pg_verifybackup"), &[&backup]).await?;
    ensure!(verified.contains("backup successfully verified"), "{verified}");

    // A logical replication connection names a database: the last column of IDENTIFY_SYSTEM.
    let arguments = ["-XAt", "-d", "dbname=app replication=database", "-c", "IDENTIFY_SYSTEM"];
    let said = run(&proxied, "postgres", &tool("psql"), &arguments).await?;
    ensure!(said.trim_end().ends_with("|app"), "{said}");
    Installation { proxied, environment }.passed().await
}
