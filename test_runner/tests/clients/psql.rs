//! psql and pgbench of the installed PostgreSQL.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_runner::proxied_postgres::{ProxiedPostgres, run};
use test_runner::wait::until;
use test_runner::{certs, clients};
use tokio::process::Command;

use super::Installation;

/// Time limit for every wait of a test.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn psql_gets_what_its_sslmode_asks_for() -> Result<()> {
    let Installation { proxied, environment } = Installation::new("sslmode").await?;
    let stranger = environment.directory.join("stranger");
    std::fs::create_dir(&stranger)?;
    let stranger = certs::create(&stranger, &["*.db.test"])?.authority.display().to_string();
    let authority = proxied.certificates.authority.display().to_string();
    let psql = environment.tools.postgres("psql");
    for (mode, authority, host, expected) in [
        ("disable", &authority, "main.db.test", Err("connection is insecure (try using `sslmode=require`)")),
        ("allow", &authority, "main.db.test", Ok(())),
        ("prefer", &authority, "main.db.test", Ok(())),
        ("require", &authority, "main.db.test", Ok(())),
        ("require", &stranger, "main.db.test", Err("SSL error: ")),
        ("verify-ca", &authority, "other.test options=endpoint=main", Ok(())),
        ("verify-ca", &stranger, "main.db.test", Err("SSL error: ")),
        ("verify-full", &authority, "main.db.test", Ok(())),
        ("verify-full", &stranger, "main.db.test", Err("SSL error: ")),
        ("verify-full", &authority, "main.other.test", Err("does not match host name \"main.other.test\"")),
    ] {
        let conninfo = format!("sslmode={mode} sslrootcert={authority} host={host}");
        let variables = proxied.environment("app");
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let output = clients::output(&psql, &["-XAtd", &conninfo, "-c", "\\conninfo"], &variables).await?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        let words = expected.err().unwrap_or("SSL connection (protocol: TLSv1.3");
        ensure!(output.status.success() == expected.is_ok() && said.contains(words), "{conninfo}: {said}");
    }

    Installation { proxied, environment }.passed().await
}

#[tokio::test]
async fn pgbench_runs_in_every_mode() -> Result<()> {
    let installation = Installation::new("pgbench").await?;
    let pgbench = installation.environment.tools.postgres("pgbench");
    run(&installation.proxied, "app", &pgbench, &["-i", "-q", "-s", "1"]).await?;
    for mode in ["simple", "extended", "prepared"] {
        let report =
            run(&installation.proxied, "app", &pgbench, &["-n", "-M", mode, "-c", "4", "-t", "100"]).await?;
        ensure!(report.contains("actually processed: 400/400"), "{mode}: {report}");
        ensure!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
    }
    // With a new connection for each transaction.
    let select = select(&installation)?;
    let arguments = ["-n", "-C", "-f", &select, "-t", "50"];
    let report = run(&installation.proxied, "crowd", &pgbench, &arguments).await?;
    ensure!(report.contains("actually processed: 50/50"), "{report}");
    installation.passed().await
}

fn select(installation: &Installation) -> Result<String> {
    let file = installation.environment.directory.join("select.sql");
    std::fs::write(&file, "SELECT 1;\n")?;
    Ok(file.display().to_string())
}

#[tokio::test]
async fn ctrl_c_in_psql_ends_the_query() -> Result<()> {
    let Installation { proxied, environment } = Installation::new("ctrl-c").await?;
    let psql = environment.tools.postgres("psql");
    interrupt(&proxied, &psql, &[]).await?;
    Installation { proxied, environment }.passed().await
}

/// Sends SIGINT to psql during a long query, which must end.
pub(crate) async fn interrupt(
    proxied: &ProxiedPostgres,
    psql: &std::path::Path,
    variables: &[(&str, &str)],
) -> Result<()> {
    let mut command = Command::new(psql);
    command.args(["-XAtq", "-c", "SELECT pg_sleep(1000)"]);
    command.envs(proxied.environment("app")).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn()?;
    let superuser = proxied.connect_directly("postgres").await?;
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("psql to sleep", DEADLINE, async || {
        Ok((superuser.query_one(asleep, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await?;

    kill(Pid::from_raw(i32::try_from(child.id().context("psql ended")?)?), Signal::SIGINT)?;
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.context("psql stays")??;
    let error = String::from_utf8(output.stderr)?;
    ensure!(error.contains("canceling statement due to user request"), "{error}");
    Ok(())
}
