//! [`Safekeeper`]: starts one safekeeper as a process, creates timelines on it and reads their status over HTTP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::env::Tools;
use crate::http::{client, get_json};
use crate::ports;
use crate::process::{ProcessId, Program, start_with_address_file};

/// Time limit for a safekeeper to read its disk and listen.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One safekeeper.
#[derive(Clone, Debug)]
pub struct Safekeeper {
    /// Location of the program.
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
    /// Whether the kernel kills it when the thread that started it ends.
    pub dies_with_parent: bool,
}

/// Parameters of a new timeline.
#[derive(Clone, Debug)]
pub struct NewTimeline {
    /// The tenant.
    pub tenant_id: String,
    /// The timeline.
    pub timeline_id: String,
    /// LSN at which its WAL begins, as text: the first byte of a segment.
    pub start_lsn: String,
    /// The cluster's system identifier.
    pub system_id: String,
    /// `server_version_num` of the server that writes the WAL.
    pub pg_version: u32,
    /// Segment size of the cluster in bytes.
    pub wal_segment_size: u32,
    /// All members: id and port.
    pub members: Vec<(u64, u16)>,
}

/// Answer of `GET /v1/timelines/{tenant}/{timeline}`; fields that the harness does not use are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimelineStatus {
    /// `healthy`, or the name of the problem.
    pub health: String,
    /// Its term.
    pub term: u64,
    /// The term of its last WAL.
    pub last_log_term: u64,
    /// Its flush LSN, as text.
    pub flush_lsn: String,
    /// Its commit LSN, as text.
    pub commit_lsn: String,
    /// Number of truncations of its log.
    #[serde(default)]
    pub truncations: u64,
}

impl Safekeeper {
    /// Name in messages (`sk1`).
    pub fn name(&self) -> String {
        format!("sk{}", self.id)
    }

    /// The base URL of its HTTP interface.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The program with its arguments.
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

    /// Starts the safekeeper and waits until it listens.
    pub async fn start(&self) -> Result<ProcessId> {
        for port in [self.pg_port, self.http_port] {
            if !ports::is_free(port) {
                bail!("{}: port {port} is taken: stop what listens there (ss -ltnp)", self.name());
            }
        }
        start_with_address_file(&self.program()?, &self.address_file(), START_TIMEOUT).await
    }

    /// Creates a timeline. An existing timeline with the same parameters is no error.
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

    /// Status of a timeline.
    pub async fn timeline(&self, tenant_id: &str, timeline_id: &str) -> Result<TimelineStatus> {
        get_json(&format!("{}/v1/timelines/{tenant_id}/{timeline_id}", self.http())).await
    }
}
