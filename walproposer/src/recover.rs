//! `walproposer recover`: one election without a primary. It settles where the log ends and adds nothing to it.
//!
//! A quorum promises a new term, so no older proposer can move the end any more; what the newest log among them has is
//! copied to a quorum and committed there. It is done when a quorum has *persisted* that: whoever reads the log
//! afterwards, even from copies of the disks, finds all of it committed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use consensus::{Action, LostTerm, ProposerOptions, WalBuffer};
use serde::Serialize;
use thiserror::Error;
use tokio::time::timeout;
use utils::Backoff;
use wal_types::{ProposerId, SegmentSize, SystemId, Term};

use crate::campaign::Campaign;
use crate::config::{Cluster, RecoverConfig, SEND_BUFFER_BYTES_MAX, SafekeeperAddress};
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
        // Elapsed: the safekeepers' own words are better than the clock's.
        Err(_) => bail!(
            "not settled within {}: {}",
            humantime::format_duration(config.timeout),
            missing(&board.read())
        ),
    }
}

async fn attempts(cluster: &Arc<Cluster>, board: &Board) -> Recovered {
    let mut backoff = Backoff::new(RECOVER_RETRY_DELAY_MIN, RECOVER_RETRY_DELAY_MAX);
    let mut told = String::new();
    let mut term_floor = Term::ZERO;
    loop {
        let failed = match attempt(cluster, board, term_floor).await {
            Ok(recovered) => return recovered,
            Err(failed) => failed,
        };
        if let Failed::Lost(LostTerm::Deposed { term, .. }) = failed {
            term_floor = term_floor.max(term);
        }
        let error = failed.to_string();
        if error != told {
            tracing::warn!(error, "not settled yet");
        }
        board.update(|snapshot| snapshot.refusal = Some(error.clone()));
        told = error;
        backoff.wait().await;
    }
}

/// Why a campaign did not settle the log.
#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Lost(#[from] LostTerm),
    #[error("no safekeeper answers: {0}")]
    NobodyAnswers(String),
    #[error("the safekeeper with the newest log is gone, and a quorum without it is there: electing again")]
    DonorLost,
}

/// One campaign. A safekeeper that is away is waited for.
async fn attempt(cluster: &Arc<Cluster>, board: &Board, term_floor: Term) -> Result<Recovered, Failed> {
    let segment_size = segment_size(cluster, board).await?;
    let options = ProposerOptions {
        id: cluster.id,
        proposer_id: ProposerId(rand::random()),
        segment_size,
        system_id: SystemId(0),
        pg_version: 0,
        tli: None,
        safekeepers: cluster.nodes(),
        term_floor,
        primary: None,
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
            Action::Committed(_) | Action::Configured(_) | Action::Checksum { .. } | Action::Reset(_) => {}
        }
    }
}

/// Waits until a quorum has persisted that everything is committed.
async fn settle(mut campaign: Campaign) -> Result<Recovered, Failed> {
    loop {
        let proposer = campaign.proposer();
        if let Some(election) = proposer.election().filter(|_| proposer.start_is_settled()) {
            return Ok(Recovered {
                end_lsn: election.start.to_string(),
                term: election.term.0,
                tli: election.tli.map(|tli| tli.0),
            });
        }
        if proposer.is_stuck() {
            return Err(Failed::DonorLost);
        }
        campaign.changed().await?;
    }
}

/// There is no primary to ask: any safekeeper of the log knows.
async fn segment_size(cluster: &Cluster, board: &Board) -> Result<SegmentSize, Failed> {
    let mut errors = Vec::new();
    for address in &cluster.safekeepers {
        let error = match ask_segment_size(cluster, address).await {
            Ok(segment_size) => return Ok(segment_size),
            Err(error) => error,
        };
        errors.push(format!("safekeeper {} at {address}: {error}", address.id));
        board.update(|snapshot| {
            for view in snapshot.safekeepers.iter_mut().filter(|view| view.address.id == address.id) {
                view.last_error = Some(error.clone());
            }
        });
    }
    Err(Failed::NobodyAnswers(errors.join("; ")))
}

async fn ask_segment_size(cluster: &Cluster, address: &SafekeeperAddress) -> Result<SegmentSize, String> {
    let asked = async {
        let mut client = safekeeper_client::connect(cluster, address).await?;
        client.simple_query("SHOW wal_segment_size").await
    };
    let answered =
        timeout(SHOW_TIMEOUT, asked).await.map_err(|_| "no answer to SHOW wal_segment_size".to_owned())?;
    let rows = answered.map_err(|error| error.to_string())?;
    let text = rows.first().and_then(|row| row.at(0)).unwrap_or_default();
    primary::segment_size(text).ok_or_else(|| format!("{text:?} is no segment size"))
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
