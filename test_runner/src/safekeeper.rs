//! One safekeeper as a process, and what its HTTP interface says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::env::Tools;
use crate::http::{client, get_json};
use crate::ports;
use crate::process::{ProcessId, Program, start_with_address_file};

/// How long it may take to read its disk and listen.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One safekeeper.
#[derive(Clone, Debug)]
pub struct Safekeeper {
    /// Where the program is.
    pub tools: Tools,
    /// Its node id.
    pub id: u64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its port for the PostgreSQL protocol.
    pub pg_port: u16,
    /// Its port for HTTP.
    pub http_port: u16,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// Whether it is killed with the thread that started it.
    pub dies_with_parent: bool,
}

/// What a new timeline is created with.
#[derive(Clone, Debug)]
pub struct NewTimeline {
    /// The tenant.
    pub tenant_id: String,
    /// The timeline.
    pub timeline_id: String,
    /// Where its WAL begins: a segment's first byte.
    pub start_lsn: String,
    /// The cluster's system identifier.
    pub system_id: String,
    /// `server_version_num` of the server that writes the WAL.
    pub pg_version: u32,
    /// The cluster's segment size.
    pub wal_segment_size: u32,
    /// All members: id and port.
    pub members: Vec<(u64, u16)>,
}

/// `GET /v1/timelines/{tenant}/{timeline}`, as far as it is used here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimelineStatus {
    /// `healthy`, or what is wrong.
    pub health: String,
    /// Its term.
    pub term: u64,
    /// The term of its last WAL.
    pub last_log_term: u64,
    /// The end of what is on disk, as text.
    pub flush_lsn: String,
    /// What it knows as committed, as text.
    pub commit_lsn: String,
    /// How often it cut its log.
    #[serde(default)]
    pub truncations: u64,
}

impl Safekeeper {
    /// What people call it.
    pub fn name(&self) -> String {
        format!("sk{}", self.id)
    }

    /// The base URL of its HTTP interface.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// How it is started.
    pub fn program(&self) -> Result<Program> {
        let path = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path is not UTF-8");
        Ok(Program {
            name: self.name(),
            executable: self.tools.programs.join("safekeeper"),
            arguments: vec![
                "--id".into(),
                self.id.to_string(),
                "--data-dir".into(),
                path(&self.data_dir)?,
                "--listen-pg".into(),
                format!("127.0.0.1:{}", self.pg_port),
                "--listen-http".into(),
                format!("127.0.0.1:{}", self.http_port),
                "--address-file".into(),
                path(&self.address_file())?,
            ],
            environment: self.environment.clone(),
            account: None,
            log: self.log.clone(),
            dies_with_parent: self.dies_with_parent,
        })
    }

    fn address_file(&self) -> PathBuf {
        self.log.with_extension("address")
    }

    /// Starts it and waits until it listens.
    pub async fn start(&self) -> Result<ProcessId> {
        for port in [self.pg_port, self.http_port] {
            if !ports::is_free(port) {
                bail!("{}: port {port} is taken: stop what listens there (ss -ltnp)", self.name());
            }
        }
        start_with_address_file(&self.program()?, &self.address_file(), START_TIMEOUT).await
    }

    /// Creates a timeline; one that is there already with the same values is no error.
    pub async fn create_timeline(&self, new: &NewTimeline) -> Result<()> {
        let members: Vec<_> = new
            .members
            .iter()
            .map(|(id, port)| json!({"id": id, "host": "127.0.0.1", "port": port}))
            .collect();
        let body = json!({
            "tenant_id": new.tenant_id, "timeline_id": new.timeline_id, "start_lsn": new.start_lsn,
            "system_id": new.system_id, "pg_version": new.pg_version, "wal_segment_size": new.wal_segment_size,
            "dialect": "holdfast", "members": members,
        });
        let url = format!("{}/v1/timelines", self.http());
        let answer = client()?.post(url).json(&body).send().await?;
        if !answer.status().is_success() {
            bail!(
                "{} did not create the timeline: {} {}",
                self.name(),
                answer.status(),
                answer.text().await?
            );
        }
        Ok(())
    }

    /// What it says about a timeline.
    pub async fn timeline(&self, tenant_id: &str, timeline_id: &str) -> Result<TimelineStatus> {
        get_json(&format!("{}/v1/timelines/{tenant_id}/{timeline_id}", self.http())).await
    }
}
