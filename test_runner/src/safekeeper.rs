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
    /// Further arguments.
    pub arguments: Vec<String>,
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
    /// PostgreSQL's timeline number there.
    pub start_tli: u32,
    /// Text of the history file of that timeline; `None` on timeline 1.
    pub start_history: Option<String>,
    /// The cluster's system identifier.
    pub system_id: String,
    /// `server_version_num` of the server that writes the WAL.
    pub pg_version: u32,
    /// Segment size of the cluster in bytes.
    pub wal_segment_size: u32,
}

/// A member: id, port and the replica id of its copy.
pub type NewMember = (u64, u16, String);

/// Creates a timeline on safekeepers, which become its members.
pub async fn create_on_all(safekeepers: &[Safekeeper], new: &NewTimeline) -> Result<()> {
    let mut members = Vec::new();
    for safekeeper in safekeepers {
        members.push((safekeeper.id, safekeeper.pg_port, safekeeper.create_timeline(new).await?));
    }
    for safekeeper in safekeepers {
        safekeeper.bootstrap(new, &members).await?;
    }
    Ok(())
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
            arguments: [
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
            ]
            .into_iter()
            .chain(self.arguments.clone())
            .collect(),
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

    /// Creates a copy of a timeline, and returns its replica id. An existing timeline with the same parameters is no error.
    pub async fn create_timeline(&self, new: &NewTimeline) -> Result<String> {
        let body = json!({
            "tenant_id": new.tenant_id, "timeline_id": new.timeline_id, "start_lsn": new.start_lsn,
            "system_id": new.system_id, "pg_version": new.pg_version, "wal_segment_size": new.wal_segment_size,
            "dialect": "holdfast",
            "start_tli": new.start_tli, "start_history": new.start_history,
        });
        let answer = client()?.post(format!("{}/v1/timelines", self.http())).json(&body).send().await?;
        let created: serde_json::Value = self.success("create the timeline", answer).await?;
        created["replica_id"].as_str().map(ToOwned::to_owned).context("a creation without replica_id")
    }

    /// Tells the copy of this safekeeper who the members are.
    pub async fn bootstrap(&self, new: &NewTimeline, members: &[NewMember]) -> Result<()> {
        let member = |(id, port, replica): &NewMember| json!({"id": id, "host": "127.0.0.1", "port": port, "replica_id": replica});
        let body = json!({"members": members.iter().map(member).collect::<Vec<_>>()});
        let url = format!("{}/v1/timelines/{}/{}/bootstrap", self.http(), new.tenant_id, new.timeline_id);
        let answer = client()?.put(url).json(&body).send().await?;
        self.success("accept the members", answer).await.map(drop)
    }

    async fn success(&self, what: &str, answer: reqwest::Response) -> Result<serde_json::Value> {
        if !answer.status().is_success() {
            bail!("{} did not {what}: {} {}", self.name(), answer.status(), answer.text().await?);
        }
        Ok(answer.json().await?)
    }

    /// Status of a timeline.
    pub async fn timeline(&self, tenant_id: &str, timeline_id: &str) -> Result<TimelineStatus> {
        get_json(&format!("{}/v1/timelines/{tenant_id}/{timeline_id}", self.http())).await
    }
}
