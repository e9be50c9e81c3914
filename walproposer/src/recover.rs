//! `walproposer recover`: one election without a primary. It settles where the log ends and adds nothing to it.
//!
//! A quorum promises a new term, so no older proposer can move the end any more; what the newest log among them has is
//! copied to a quorum and committed there. It is done when a quorum has *persisted* that: whoever reads the log
//! afterwards, even from copies of the disks, finds all of it committed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use consensus::{Action, LostTerm, ProposerOptions, WalBuffer};
use serde::Serialize;
use tokio::time::timeout;
use utils::Backoff;
use wal_types::{ProposerId, SegmentSize, SystemId};

use crate::campaign::{Campaign, SEND_BUFFER_BYTES_MAX};
use crate::config::{Cluster, RecoverConfig};
use crate::status::{Board, LinkState, Snapshot};
use crate::{primary, safekeeper_client};

const RECOVER_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RECOVER_RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// For the answer to SHOW.
const SHOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the log ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Everything below is committed.
    pub end_lsn: String,
    /// The term under which it was settled.
    pub term: u64,
    /// PostgreSQL timeline at the end; none when the log is empty.
    pub tli: Option<u32>,
}

/// Tries until it succeeds or the time is up; then the error names who was missing.
pub async fn run(config: &RecoverConfig) -> anyhow::Result<Recovered> {
    let cluster = Arc::new(config.cluster.clone());
    let board = Board::new(&cluster);
    match timeout(config.timeout, attempts(&cluster, &board)).await {
        Ok(recovered) => Ok(recovered),
        Err(_) => bail!(
            "not settled within {}: {}",
            humantime::format_duration(config.timeout),
            missing(&board.read())
        ),
    }
}

async fn attempts(cluster: &Arc<Cluster>, board: &Board) -> Recovered {
    let mut backoff = Backoff::new(RECOVER_RETRY_DELAY_MIN, RECOVER_RETRY_DELAY_MAX);
    loop {
        let error = match segment_size(cluster, board).await {
            Ok(segment_size) => match attempt(cluster, board, segment_size).await {
                Ok(recovered) => return recovered,
                Err(error) => error.to_string(),
            },
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!(error, "trying again");
        board.update(|snapshot| snapshot.refusal = Some(error));
        backoff.wait().await;
    }
}

/// One campaign. A safekeeper that is away is waited for.
async fn attempt(
    cluster: &Arc<Cluster>,
    board: &Board,
    segment_size: SegmentSize,
) -> Result<Recovered, LostTerm> {
    let options = ProposerOptions {
        id: cluster.id,
        proposer_id: ProposerId(rand::random()),
        segment_size,
        system_id: SystemId(0),
        pg_version: 0,
        tli: None,
        safekeepers: cluster.nodes(),
        send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
    };
    let mut campaign = Campaign::start(cluster, options, board);
    loop {
        match campaign.next().await? {
            Action::Surveyed { .. } => campaign.campaign()?,
            Action::Elected(election) => {
                tracing::info!(term = %election.term, end_lsn = %election.start, donor = %election.donor, "elected");
                campaign.approve(WalBuffer::new(election.start));
                return settle(campaign).await;
            }
            Action::Committed(_) | Action::Checksum { .. } | Action::Reset(_) => {}
        }
    }
}

/// Waits until a quorum has persisted that everything is committed.
async fn settle(mut campaign: Campaign) -> Result<Recovered, LostTerm> {
    loop {
        let proposer = campaign.proposer();
        if let Some(election) = proposer.election().filter(|_| proposer.start_is_settled()) {
            return Ok(Recovered {
                end_lsn: election.start.to_string(),
                term: election.term.0,
                tli: election.tli.map(|tli| tli.0),
            });
        }
        campaign.changed().await?;
    }
}

/// There is no primary to ask: any safekeeper of the log knows.
async fn segment_size(cluster: &Cluster, board: &Board) -> anyhow::Result<SegmentSize> {
    let mut first_error = None;
    for address in &cluster.safekeepers {
        let asked = async {
            let mut client = safekeeper_client::connect(cluster, address).await?;
            let rows = timeout(SHOW_TIMEOUT, client.simple_query("SHOW wal_segment_size"))
                .await
                .context("no answer to SHOW wal_segment_size")??;
            let text = rows.first().and_then(|row| row.at(0)).unwrap_or_default();
            primary::segment_size(text).with_context(|| format!("{text:?} is no segment size"))
        };
        match asked.await {
            Ok(segment_size) => return Ok(segment_size),
            Err(error) => {
                board.update(|snapshot| {
                    for view in snapshot.safekeepers.iter_mut().filter(|view| view.address.id == address.id) {
                        view.last_error = Some(format!("{error:#}"));
                    }
                });
                first_error.get_or_insert_with(|| error.context(format!("safekeeper {}", address.id)));
            }
        }
    }
    Err(first_error.unwrap_or_else(|| anyhow!("no safekeepers")))
}

fn missing(snapshot: &Snapshot) -> String {
    let away = snapshot.safekeepers.iter().filter(|view| view.state != LinkState::Streaming);
    let away: Vec<String> = away
        .map(|view| {
            let (id, address) = (view.address.id, &view.address);
            match &view.last_error {
                Some(error) => format!("safekeeper {id} at {address}: {error}"),
                None => format!("safekeeper {id} at {address}: {:?}", view.state),
            }
        })
        .collect();
    match (away.is_empty(), &snapshot.refusal) {
        (false, _) => away.join("; "),
        (true, Some(refusal)) => refusal.clone(),
        (true, None) => "a majority has yet to store the end of the log".to_owned(),
    }
}
