//! [`Walproposer`]: starts the walproposer as a process, reads its status over HTTP, and runs its command `recover`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use wal_types::Lsn;

use crate::env::Tools;
use crate::http::get_json;
use crate::process::{ProcessId, Program, start_with_address_file};
use crate::{clients, ports};

/// Time limit for the walproposer to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The walproposer of one cluster.
#[derive(Clone, Debug)]
pub struct Walproposer {
    /// Location of the program.
    pub tools: Tools,
    /// Its log.
    pub log: PathBuf,
    /// Its port for HTTP.
    pub http_port: u16,
    /// Connection URI of the primary.
    pub primary: String,
    /// The safekeepers: id and port.
    pub safekeepers: Vec<(u64, u16)>,
    /// The tenant.
    pub tenant_id: String,
    /// The timeline.
    pub timeline_id: String,
    /// `--primary-name`: the name under which the configuration may designate this primary.
    pub primary_name: Option<String>,
    /// Whether the kernel kills it when the thread that started it ends.
    pub dies_with_parent: bool,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WalproposerStatus {
    /// `waiting_for_primary`, `collecting`, `campaigning`, `checking` or `streaming`.
    pub state: String,
    /// Its term, once it has one.
    pub term: Option<u64>,
    /// The commit LSN, as text.
    pub commit_lsn: Option<String>,
    /// The flush LSN of the primary, as text.
    pub primary_flush_lsn: Option<String>,
    /// One sentence about what blocks commits; `None` when they go through.
    pub blocked: Option<String>,
    /// What the last look at the primary's settings saw; null before the first one.
    #[serde(default)]
    pub primary_settings: serde_json::Value,
    /// The configuration: `generation`, `decided`, `joint`, `members`, `new_members`, `primary`.
    #[serde(default)]
    pub configuration: serde_json::Value,
    /// The last requested change of the configuration.
    #[serde(default)]
    pub change: serde_json::Value,
    /// Each safekeeper as the walproposer sees it.
    #[serde(default)]
    pub safekeepers: Vec<SafekeeperView>,
}

/// A safekeeper as the walproposer sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SafekeeperView {
    /// Its node id.
    pub id: u64,
    /// `offline`, `connecting`, `greeted`, `voted`, `catching_up` or `streaming`.
    pub state: String,
    /// Its flush LSN, as text.
    pub flush_lsn: Option<String>,
    /// Bytes behind the primary.
    pub lag_bytes: Option<u64>,
    /// Why it is not connected.
    pub last_error: Option<String>,
}

impl WalproposerStatus {
    /// One sentence about settings of the primary with which commits do not wait for the quorum, or may be lost; `None`
    /// when they are safe, or not known because there is no connection to the primary.
    pub fn unsafe_settings(&self) -> Option<&str> {
        let has_problems = self.primary_settings["problems"].as_array().is_some_and(|all| !all.is_empty());
        let is_connected = self.state != "waiting_for_primary";
        self.blocked.as_deref().filter(|_| has_problems && is_connected)
    }

    /// One sentence about settings that the walproposer cannot read.
    pub fn unchecked_settings(&self) -> Option<&str> {
        self.primary_settings["unchecked"].as_str()
    }
}

impl Walproposer {
    /// The base URL of its HTTP interface.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Starts the walproposer and waits until it listens.
    pub async fn start(&self) -> Result<ProcessId> {
        if !ports::is_free(self.http_port) {
            anyhow::bail!(
                "walproposer: port {} is taken: stop what listens there (ss -ltnp)",
                self.http_port
            );
        }
        let address_file = self.log.with_extension("address");
        start_with_address_file(&self.program(&address_file)?, &address_file, START_TIMEOUT).await
    }

    fn program(&self, address_file: &Path) -> Result<Program> {
        let mut arguments: Vec<String> =
            ["run", "--slot", "wp", "--application-name", "wp"].map(Into::into).into();
        arguments.extend(self.lineage());
        if let Some(name) = &self.primary_name {
            arguments.extend(["--primary-name".to_owned(), name.clone()]);
        }

        arguments.extend([
            "--listen-http".into(),
            format!("127.0.0.1:{}", self.http_port),
            "--address-file".into(),
            address_file.to_str().context("a path is not UTF-8")?.into(),
        ]);

        Ok(Program {
            name: "walproposer".into(),
            executable: self.tools.programs.join("walproposer"),
            arguments,
            // The URI holds a password, which must not stand in the list of processes.
            environment: vec![("HOLDFAST_PRIMARY".into(), self.primary.clone())],
            account: None,
            log: self.log.clone(),
            dies_with_parent: self.dies_with_parent,
        })
    }

    fn lineage(&self) -> Vec<String> {
        let addresses: Vec<String> =
            self.safekeepers.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let values = ["--safekeepers", &addresses.join(","), "--tenant-id", &self.tenant_id];
        values.into_iter().chain(["--timeline-id", &self.timeline_id]).map(Into::into).collect()
    }

    /// Status of the walproposer.
    pub async fn status(&self) -> Result<WalproposerStatus> {
        get_json(&format!("{}/v1/status", self.http())).await
    }

    /// Runs `walproposer recover`, an election without a primary. Returns the end of the committed log.
    pub async fn recover(&self) -> Result<Lsn> {
        let printed = self.run_recover(&[]).await?;
        printed.trim().parse().with_context(|| format!("walproposer recover printed {printed:?}"))
    }

    /// [`Walproposer::recover`], given up after `timeout`, such as 5s.
    pub async fn recover_within(&self, timeout: &str) -> Result<String> {
        self.run_recover(&["--timeout", timeout]).await
    }

    /// Runs `walproposer recover` and designates the primary with this name. Returns the JSON that it printed.
    pub async fn fail_over(&self, name: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.run_recover(&["--primary-name", name, "--json"]).await?)?)
    }

    async fn run_recover(&self, more: &[&str]) -> Result<String> {
        let lineage = self.lineage();
        let all: Vec<&str> = ["recover"]
            .into_iter()
            .chain(lineage.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect();
        clients::run(&self.tools.programs.join("walproposer"), &all, &[]).await
    }
}
