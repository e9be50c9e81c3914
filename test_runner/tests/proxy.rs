//! The proxy of a cluster: logins and refusals through the printed psql line, wakes, and rows that reach the
//! safekeepers. The tests in `proxy/tests` cover its protocol.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_runner::clients;
use test_runner::cluster::PartName;
use test_runner::oracle::wait_replayed;
use test_runner::tls_client::VerifyFull;
use test_runner::wait::until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::dev_commands::{DevCommands, paste, try_paste};

/// Time limit for every wait of a test.
const DEADLINE: Duration = Duration::from_secs(90);
/// Concurrent clients.
const CROWD: usize = 200;
/// Running time of pgbench in each mode.
const PGBENCH_SECONDS: &str = "3";

#[tokio::test]
async fn clients_are_admitted_or_refused_with_clear_errors() -> Result<()> {
    let dev = DevCommands::new("proxy-logins")?;
    let line = dev.up().await?;
    ensure!(paste(&line, "SELECT current_user || ' ' || current_database()").await? == "app app");
    let cluster_json = dev.cluster_json()?;
    let proxy = &cluster_json["proxy"];
    let text = |field: &str| proxy[field].as_str().map(ToOwned::to_owned).context(field.to_owned());
    let (password, port) = (text("password")?, proxy["port"].to_string());
    ensure!(
        line.contains(&format!("app:{password}@{}:{port}/app?hostaddr=", text("server_name")?)),
        "{line}"
    );

    for (wrong, words) in [
        (line.replace(&password, "wrong"), "password authentication failed for user \"app\""),
        (line.replace("//app:", "//nobody:"), "password authentication failed for user \"nobody\""),
        (line.replace("@main.", "@other."), "endpoint \"other\" is not known"),
        (line.replace("verify-full", "disable"), "connection is insecure"),
        (line.replace("@main.holdfast.", "@main.elsewhere."), "server certificate for"),
    ] {
        let said = String::from_utf8(try_paste(&wrong, "SELECT 1").await?.stderr)?;
        ensure!(said.contains(words), "{wrong}: {said}");
    }

    let conninfo = |endpoint: &str, last: &str| {
        format!(
            "host={endpoint}.holdfast.localhost hostaddr=127.0.0.1 port={port} user=app password={password} \
             dbname=app sslmode=require {last}"
        )
    };
    let tls = VerifyFull::new(&PathBuf::from(text("ca_cert")?))?;
    let wrong_password = refusal(&conninfo("main", "password=wrong"), &tls).await?;
    let unknown_role = refusal(&conninfo("main", "user=nobody"), &tls).await?;
    ensure!(
        wrong_password == ("28P01".into(), unknown_role.1.replace("nobody", "app")),
        "{wrong_password:?}"
    );

    ensure!(unknown_role.0 == "28P01", "{unknown_role:?}");
    let unknown_endpoint = refusal(&conninfo("other", ""), &tls).await?;
    ensure!(unknown_endpoint == ("28000".into(), "endpoint \"other\" is not known".into()));
    let plaintext = refusal(&conninfo("main", "sslmode=disable"), &tls).await?;
    ensure!(plaintext.0 == "28000" && plaintext.1.contains("insecure"), "{plaintext:?}");
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

/// SQLSTATE and message with which a client is refused; psql does not print the SQLSTATE while it connects.
async fn refusal(conninfo: &str, tls: &VerifyFull) -> Result<(String, String)> {
    let refused = match tokio_postgres::connect(conninfo, tls.clone()).await {
        Ok(_) => bail!("{conninfo} was admitted"),
        Err(refused) => refused,
    };
    let error = refused.as_db_error().with_context(|| format!("refused without a message: {refused:?}"))?;
    Ok((error.code().code().to_owned(), error.message().to_owned()))
}

#[tokio::test]
async fn sleeping_compute_is_woken_once_for_all() -> Result<()> {
    let dev = DevCommands::new("proxy-wake")?;
    let line = dev.up().await?;
    paste(&line, "CREATE TABLE t AS SELECT 1 AS x").await?;
    dev.succeed(&["stop", "postgres"]).await?;
    let starts_before = starts(&dev)?;
    ensure!(dev.succeed(&["status"]).await?.contains("through the proxy, which wakes it"));
    ensure!(paste(&line, "INSERT INTO t VALUES (2)").await? == "INSERT 0 1");
    ensure!(dev.succeed(&["status"]).await?.contains("commits go through"));

    dev.succeed(&["stop", "postgres"]).await?;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(PsqlSession::start(&dev)?);
    }
    for client in &mut crowd {
        ensure!(client.ask("SELECT count(*) FROM t").await? == "2");
    }
    let status: serde_json::Value = serde_json::from_str(&dev.succeed(&["status", "--json"]).await?)?;
    let sessions = status["proxy"]["sessions"].as_array().context("the proxy does not answer")?;
    let passing = sessions.iter().filter(|session| session["state"] == "passing").count();
    ensure!(passing == CROWD, "{passing} of {CROWD} sessions");
    ensure!(status["proxy"]["cache"]["addresses"][0]["endpoint"] == "main", "{}", status["proxy"]["cache"]);
    ensure!(dev.succeed(&["status"]).await?.contains(&format!("and {} more", CROWD - 20)));
    for client in crowd {
        client.leave().await?;
    }
    ensure!(starts(&dev)? == starts_before + 2, "PostgreSQL was started {} times", starts(&dev)?);
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn wake_is_refused_when_the_proxy_is_gone() -> Result<()> {
    let dev = DevCommands::new("proxy-gone")?;
    dev.up().await?;
    dev.succeed(&["stop", "proxy"]).await?;
    dev.succeed(&["stop", "postgres"]).await?;
    ensure!(dev.fail(&["start", "postgres", "--for-proxy"]).await?.contains("is not started"));
    ensure!(!dev.cluster()?.is_running(PartName::Postgres));
    dev.succeed(&["start", "proxy"]).await?;
    dev.succeed(&["start", "postgres", "--for-proxy"]).await?;
    ensure!(dev.cluster()?.is_running(PartName::Postgres));
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn down_waits_briefly_then_ends_sessions() -> Result<()> {
    let dev = DevCommands::new("proxy-down")?;
    dev.up().await?;
    let mut idle = PsqlSession::start(&dev)?;
    ensure!(idle.ask("SELECT 1").await? == "1");
    let busy = PsqlSession::start(&dev)?.sleep("busy").await?;
    wait_asleep(&dev, "busy").await?;
    dev.succeed(&["down"]).await?;
    ensure!(dev.processes().is_empty());
    idle.send("SELECT 2;\n").await?;
    for (client, words) in [(idle, "FATAL:  terminating connection"), (busy, "connection to server was lost")]
    {
        let said = client.last_words().await?;
        ensure!(said.contains(words), "{said}");
    }

    dev.passed();
    Ok(())
}

/// A killed database is woken by the next client.
#[tokio::test]
async fn cancel_reaches_its_backend_and_kill_wakes() -> Result<()> {
    let dev = DevCommands::new("proxy-cancel")?;
    let line = dev.up().await?;
    let (first, second) = (PsqlSession::start(&dev)?, PsqlSession::start(&dev)?);
    let [first, second] = [first.sleep("first").await?, second.sleep("second").await?];
    wait_asleep(&dev, "first, second").await?;
    kill(first.pid()?, Signal::SIGINT)?;
    wait_asleep(&dev, "second").await?;
    let said = first.last_words().await?;
    ensure!(said.contains("canceling statement due to user request"), "{said}");

    let starts_before = starts(&dev)?;
    let postmaster = dev.cluster()?.part(PartName::Postgres)?.process.context("no postgres")?;
    postmaster.kill().await?;
    let said = second.last_words().await?;
    ensure!(said.contains("FATAL:  ") && said.contains("connection"), "{said}");
    ensure!(paste(&line, "SELECT 42").await? == "42");
    ensure!(starts(&dev)? > starts_before);
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

/// The standby streams from a safekeeper.
#[tokio::test]
async fn rows_written_through_proxy_reach_a_standby() -> Result<()> {
    let dev = DevCommands::new("proxy-rows")?;
    let line = dev.up().await?;
    let cluster = dev.cluster()?;
    let (uri, pgbench) = (cluster.proxy().uri(), cluster.tools.postgres("pgbench"));
    clients::run(&pgbench, &["-i", "-q", "-s", "2", &uri], &[]).await?;
    cluster.postgres().base_backup(&dev.directory.join("base_backup")).await?;
    for mode in ["simple", "extended", "prepared"] {
        let arguments = ["-n", "-M", mode, "-c", "8", "-j", "2", "-T", PGBENCH_SECONDS, &uri];
        let report = clients::run(&pgbench, &arguments, &[]).await?;
        ensure!(report.contains("number of failed transactions: 0 "), "{mode}: {report}");
    }
    paste(&line, "CREATE TABLE last AS SELECT g AS x FROM generate_series(1, 1000) g").await?;
    let checksum =
        |table| format!("(SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)) FROM {table} t)");
    let tables = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "last"];
    let checksums = format!("SELECT concat_ws(', ', {})", tables.map(checksum).join(", "));
    let written = paste(&line, &checksums).await?;
    ensure!(written.starts_with("200000 ") && written.contains(", 1000 "), "{written}");

    let end = cluster.postgres().ask("postgres", "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
    let standby = cluster.standby("standby", 3).await?;
    let process = standby.start(&[]).await?;
    wait_replayed(&standby, end).await?;
    let replayed = standby.ask("app", &checksums).await?;
    ensure!(replayed == written, "proxy {written}, standby {replayed}");
    process.end(Signal::SIGQUIT, DEADLINE).await?;
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

/// Number of starts of PostgreSQL.
fn starts(dev: &DevCommands) -> Result<usize> {
    let log = fs::read_to_string(dev.directory.join("postgres.log"))?;
    Ok(log.lines().filter(|line| line.starts_with("--- ")).count())
}

/// Waits until exactly these sleeping queries run.
async fn wait_asleep(dev: &DevCommands, names: &str) -> Result<()> {
    let postgres = dev.cluster()?.postgres();
    let query = "SELECT coalesce(string_agg(substring(query FROM 'AS (\\w+)'), ', ' ORDER BY query), '') \
                 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(1000) AS %'";
    until(&format!("{names} to sleep"), DEADLINE, async || {
        Ok((postgres.ask("postgres", query).await? == names).then_some(()))
    })
    .await
}

/// A psql process that reads its commands from a pipe.
struct PsqlSession {
    psql: Child,
}

impl PsqlSession {
    fn start(dev: &DevCommands) -> Result<Self> {
        let cluster = dev.cluster()?;
        let mut command = Command::new(cluster.tools.postgres("psql"));
        command.args(["-X", "-A", "-t", "-q", &cluster.proxy().uri()]).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(Self { psql: command.spawn()? })
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.psql.stdin.as_mut().context("no stdin")?;
        stdin.write_all(text.as_bytes()).await?;
        Ok(())
    }

    /// Runs a query and returns one line of its output.
    async fn ask(&mut self, query: &str) -> Result<String> {
        self.send(&format!("{query};\n")).await?;
        let mut answer = String::new();
        let mut stdout = BufReader::new(self.psql.stdout.as_mut().context("no stdout")?);
        tokio::time::timeout(DEADLINE, stdout.read_line(&mut answer))
            .await
            .context("psql said nothing")??;
        Ok(answer.trim().to_owned())
    }

    /// Starts a query that sleeps.
    async fn sleep(mut self, name: &str) -> Result<Self> {
        self.send(&format!("SELECT pg_sleep(1000) AS {name};\n")).await?;
        Ok(self)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.psql.id().context("psql ended")?)?))
    }

    async fn leave(mut self) -> Result<()> {
        drop(self.psql.stdin.take());
        let status = tokio::time::timeout(DEADLINE, self.psql.wait()).await.context("psql stays")??;
        ensure!(status.success(), "psql ended with {status}");
        Ok(())
    }

    /// Waits for the end of psql. Returns its standard error.
    async fn last_words(mut self) -> Result<String> {
        drop(self.psql.stdin.take());
        let output = tokio::time::timeout(DEADLINE, self.psql.wait_with_output()).await;
        Ok(String::from_utf8(output.context("psql stays")??.stderr)?)
    }
}
