//! [`Node`]: a safekeeper of a bench as a process, and the creation of timelines on it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use nix::sys::signal::Signal;
use serde_json::json;
use test_runner::ports;
use test_runner::process::ProcessId;
use test_runner::safekeeper::Safekeeper;
use wal_types::{Lsn, SegmentSize, TenantId, TenantTimelineId, TimelineId};

use super::link::{BenchTimeline, PG_VERSION};
use super::source::SYSTEM_ID;
use crate::run::Run;

/// Time limit for the end of a safekeeper.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the creation of a timeline.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Creations under way at a time.
const CREATIONS_MAX: usize = 16;
/// The tenant of all timelines of the benchmarks.
const TENANT: TenantId = TenantId([0xbe; 16]);

/// A running safekeeper. The kernel kills it when the bench ends.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) safekeeper: Safekeeper,
    pub(crate) process: ProcessId,
}

impl Node {
    /// Starts a safekeeper on an empty directory.
    pub(crate) async fn start(run: &Run, id: u64) -> Result<Self> {
        let safekeeper = Safekeeper {
            tools: run.tools.clone(),
            id,
            data_dir: run.directory.join(format!("sk{id}")),
            log: run.directory.join(format!("sk{id}.log")),
            pg_port: ports::pick()?,
            http_port: ports::pick()?,
            arguments: Vec::new(),
            environment: vec![("RUST_LOG".into(), "warn".into())],
            dies_with_parent: true,
        };
        let process = safekeeper.start().await?;
        Ok(Self { safekeeper, process })
    }

    /// Creates timelines, each with this safekeeper as its only member, several at a time. The benches elect each safekeeper
    /// by itself.
    pub(crate) async fn create(&self, timelines: &[BenchTimeline]) -> Result<()> {
        let client = reqwest::Client::builder().timeout(CREATE_TIMEOUT).no_proxy().build()?;
        let url = format!("{}/v1/timelines", self.safekeeper.http());
        let create = async |timeline: &BenchTimeline| -> Result<()> {
            let body = json!({
                "tenant_id": timeline.id.tenant.to_string(), "timeline_id": timeline.id.timeline.to_string(),
                "start_lsn": timeline.start.to_string(), "system_id": SYSTEM_ID.to_string(),
                "pg_version": PG_VERSION, "wal_segment_size": timeline.segment_size.bytes(),
                "dialect": "holdfast",
            });
            let answer = client.post(&url).json(&body).send().await.context("cannot create a timeline")?;
            let status = answer.status();
            ensure!(
                status.is_success(),
                "the safekeeper answered a creation with {status}: {}",
                answer.text().await?
            );
            let created: serde_json::Value = answer.json().await?;
            let id = self.safekeeper.id;
            let only = json!({"id": id, "host": "127.0.0.1", "port": 1, "replica_id": created["replica_id"]});
            let url = format!("{url}/{}/{}/bootstrap", timeline.id.tenant, timeline.id.timeline);
            client.put(url).json(&json!({"members": [only]})).send().await?.error_for_status()?;
            Ok(())
        };
        futures::stream::iter(timelines).map(create).buffer_unordered(CREATIONS_MAX).try_collect().await
    }

    /// Stops the safekeeper by SIGTERM or kills it, and waits for its end.
    pub(crate) async fn end(&self, signal: Signal) -> Result<()> {
        self.process.end(signal, END_TIMEOUT).await
    }
}

/// The timeline with this number.
pub(crate) fn timeline(number: u64, segment_bytes: u32) -> Result<BenchTimeline> {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let segment_size = SegmentSize::new(segment_bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(BenchTimeline {
        id: TenantTimelineId { tenant: TENANT, timeline: TimelineId(id) },
        segment_size,
        start: Lsn(segment_bytes.into()),
    })
}
