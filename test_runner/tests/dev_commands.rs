//! [`DevCommands`]: runs the commands of `./dev` as a person does, and reads their output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use test_runner::clients;
use test_runner::cluster::state::ClusterState;
use test_runner::cluster::{Cluster, ClusterOptions};
use test_runner::env::TestEnvironment;
use test_runner::process::{ProcessId, Program};

/// Runs SQL through the printed psql line, in a shell. Returns the output of psql.
pub(crate) async fn try_paste(psql_line: &str, sql: &str) -> Result<Output> {
    let command = format!("{psql_line} -XAtc \"$1\"");
    clients::output(Path::new("sh"), &["-c", &command, "sh", sql], &[("LC_ALL", "C")]).await
}

/// Runs SQL that must succeed through the printed psql line. Returns its standard output.
pub(crate) async fn paste(psql_line: &str, sql: &str) -> Result<String> {
    let output = try_paste(psql_line, sql).await?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{sql}: {error}");
    }
    Ok(out.trim().to_owned())
}

/// A directory for the commands of one test. Processes that they started end with it.
pub(crate) struct DevCommands {
    pub(crate) directory: PathBuf,
    environment: Option<TestEnvironment>,
}

impl DevCommands {
    /// Makes an empty directory for the commands.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let environment = TestEnvironment::new(name)?;
        Ok(Self { directory: environment.directory.clone(), environment: Some(environment) })
    }

    fn program(&self) -> PathBuf {
        env!("CARGO_BIN_EXE_local_cluster").into()
    }

    /// Runs `up --detach`. Returns the printed psql line.
    pub(crate) async fn up(&self) -> Result<String> {
        let printed = self.succeed(&["up", "--detach"]).await?;
        printed.lines().last().map(ToOwned::to_owned).context("nothing printed")
    }

    /// The cluster as it is now, for questions that the commands do not answer.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        let environment = self.environment.as_ref().context("the test is over")?;
        let options = ClusterOptions { dies_with_parent: true, ..ClusterOptions::default() };
        Cluster::open(&self.directory, environment.tools.clone(), options)
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let directory = self.directory.to_str().context("not UTF-8")?;
        let all: Vec<&str> = arguments.iter().copied().chain(["--directory", directory]).collect();
        clients::output(&self.program(), &all, &[]).await
    }

    /// Runs a command that must succeed. Returns its standard output.
    pub(crate) async fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{arguments:?} failed: {error}{out}");
        Ok(out.into_owned())
    }

    /// Runs a command that must fail. Returns the sentence that it printed.
    pub(crate) async fn fail(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        ensure!(!output.status.success(), "{arguments:?} succeeded");
        let error = String::from_utf8(output.stderr)?;
        error
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .map(ToOwned::to_owned)
            .context("no error was printed")
    }

    /// Starts a command and leaves it running.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Result<ProcessId> {
        let directory = self.directory.to_str().context("not UTF-8")?;
        Program {
            name: "dev".into(),
            executable: self.program(),
            arguments: arguments.iter().copied().chain(["--directory", directory]).map(Into::into).collect(),
            environment: Vec::new(),
            account: None,
            log: self.directory.join("dev.log"),
            dies_with_parent: true,
        }
        .spawn()
    }

    /// The facts in `cluster.json` for programs other than `holdfast`.
    pub(crate) fn cluster_json(&self) -> Result<serde_json::Value> {
        let text = fs::read_to_string(self.directory.join("cluster.json"))?;
        let mut document: serde_json::Value = serde_json::from_str(&text)?;
        Ok(document["local"].take())
    }

    /// The running processes that the commands started.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let Ok(Some(state)) = ClusterState::load(&self.directory.join("state.json")) else {
            return Vec::new();
        };
        let safekeepers = state.safekeepers.iter().map(|safekeeper| safekeeper.part.process);
        let others = [state.proxy.part.process, state.walproposer.process, state.postgres.process];
        let all = others.into_iter().chain(safekeepers).flatten();
        all.filter(|process| process.is_alive()).collect()
    }

    /// Marks the test as passed: its files are removed. To be called at the end of a test.
    pub(crate) fn passed(mut self) {
        self.end();
        if let Some(environment) = self.environment.take() {
            environment.passed();
        }
    }

    fn end(&self) {
        for process in self.processes() {
            let _ = process.signal(Signal::SIGKILL);
        }
    }
}

impl Drop for DevCommands {
    fn drop(&mut self) {
        self.end();
    }
}
