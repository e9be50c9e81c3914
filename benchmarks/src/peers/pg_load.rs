//! Runs `pg_load`, the load of connections: logins, idle sessions, and a server that only logs in.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use test_runner::env::Tools;
use test_runner::process::{ProcessId, Program, start_with_address_file};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::database::{DATABASE, PASSWORD, ROLE, SERVER_NAME};
use super::middle::{Middle, Setting};

/// Name of the program.
const PROGRAM: &str = "pg_load";
/// Time limit for it to listen as a server.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What a login load printed.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Logins {
    /// Finished logins.
    pub(crate) logins: f64,
    /// Length of the load.
    pub(crate) seconds: f64,
    /// Median time of a login in microseconds.
    pub(crate) p50_us: f64,
}

/// Logs in and out for some seconds.
pub(crate) async fn log_in(tools: &Tools, middle: &Middle, clients: usize, seconds: f64) -> Result<Logins> {
    let mut command = client(tools, "login", middle);
    command.args(["--clients", &clients.to_string(), "--seconds", &seconds.to_string()]);
    let output = command.output().await.context("cannot run pg_load")?;
    ensure!(output.status.success(), "pg_load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A server that `pg_load` plays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Played {
    /// Its process.
    pub(crate) process: ProcessId,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
}

/// Starts a server that lets every client in and holds its session.
pub(crate) async fn start_responder(tools: &Tools, directory: &Path) -> Result<Played> {
    play(tools, directory, "responder", Vec::new()).await
}

/// Starts a control plane of the proxy, which knows the database of this setting.
pub(crate) async fn start_control_plane(setting: &Setting) -> Result<Played> {
    let address = format!("127.0.0.1:{}", setting.database_port);
    let arguments = vec!["--address".into(), address, "--verifier".into(), setting.verifier.clone()];
    play(&setting.tools, &setting.directory, "control-plane", arguments).await
}

async fn play(tools: &Tools, directory: &Path, role: &str, mut arguments: Vec<String>) -> Result<Played> {
    let file = directory.join(format!("{role}.address"));
    arguments.insert(0, role.into());
    arguments.extend(["--address-file".into(), file.display().to_string()]);
    let program = Program {
        name: role.into(),
        executable: tools.programs.join(PROGRAM),
        arguments,
        environment: Vec::new(),
        account: None,
        log: directory.join(format!("{role}.log")),
        dies_with_parent: true,
    };
    let process = start_with_address_file(&program, &file, START_TIMEOUT).await?;
    let address = fs::read_to_string(&file)?;
    let port = address.rsplit_once(':').context("pg_load wrote no port")?.1.parse()?;
    Ok(Played { process, port })
}

/// Clients that open idle connections in stages. They close them when dropped.
#[derive(Debug)]
pub(crate) struct IdleClients {
    process: Child,
    go_on: ChildStdin,
    stages: Lines<BufReader<ChildStdout>>,
}

impl IdleClients {
    /// Begins with the first stage. `silent` connections say nothing.
    pub(crate) fn start(tools: &Tools, middle: &Middle, stages: &[usize], silent: bool) -> Result<Self> {
        let stages: Vec<String> = stages.iter().map(usize::to_string).collect();
        let mut command = client(tools, "idle", middle);
        command.args(["--sessions", &stages.join(",")]).args(silent.then_some("--silent"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot run pg_load")?;
        let go_on = process.stdin.take().context("no standard input")?;
        let stages = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        Ok(Self { process, go_on, stages })
    }

    /// Waits until the connections of the current stage are open.
    pub(crate) async fn opened(&mut self) -> Result<()> {
        let line = self.stages.next_line().await?;
        line.map(drop).context("pg_load ended before all connections were open: see above")
    }

    /// Lets the next stage begin.
    pub(crate) async fn go_on(&mut self) -> Result<()> {
        Ok(self.go_on.write_all(b"\n").await?)
    }

    /// Closes all connections.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

fn client(tools: &Tools, what: &str, middle: &Middle) -> Command {
    let mut command = Command::new(tools.programs.join(PROGRAM));
    command.args([what, "--target", &format!("127.0.0.1:{}", middle.port), "--server-name", SERVER_NAME]);
    command.args(["--user", ROLE, "--database", DATABASE, "--password", PASSWORD]);
    command.args(middle.tls.then_some("--tls"));
    if let Some(options) = middle.options {
        command.args(["--options", options]);
    }
    command.kill_on_drop(true);
    command
}
