//! `walproposer recover`: one election without a primary. It settles where the log ends and adds nothing to it.
//!
//! A quorum promises a new term, so no older proposer can move the end any more; what the newest log among them has is
//! copied to a quorum and committed there. It is done when a quorum has *persisted* that: whoever reads the log
//! afterwards, even from copies of the disks, finds all of it committed.
//!
//! For a failover it then gives the log to the primary that takes over: a quorum holds that under the same term, and no
//! other primary's walproposer is let in any more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use consensus::{Action, ChangeRefused, ConfigurationChange, Election, LostTerm, ProposerOptions, WalBuffer};
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, info_span};
use utils::Backoff;
use wal_types::{PrimaryId, ProposerId, SegmentSize, SystemId, Term};

use crate::campaign::{Campaign, due, election_timeout};
use crate::config::{Cluster, RecoverConfig, SEND_BUFFER_BYTES_MAX, SafekeeperAddress};
use crate::configuration_change::{ChangeAccepted, ChangeError};
use crate::primary_name::PrimaryName;
use crate::status::{LinkState, StatusBoard, StatusSnapshot};
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
    /// The only primary whose WAL the log takes; none: anybody's.
    pub primary: Option<String>,
    /// Generation of the configuration that says so.
    pub generation: u32,
}

/// Tries until it succeeds or the time is up; then the error names who was missing.
pub async fn run(config: &RecoverConfig) -> anyhow::Result<Recovered> {
    let cluster = Arc::new(config.cluster.clone());
    let board = StatusBoard::new(&cluster);
    let settling = attempts(config, &cluster, &board).instrument(info_span!("recovery"));
    match timeout(config.timeout, settling).await {
        Ok(settled) => settled,
        // Elapsed: the safekeepers' own words are better than the clock's.
        Err(_) => bail!(
            "not settled within {}: {}",
            humantime::format_duration(config.timeout),
            missing(&board.read())
        ),
    }
}

async fn attempts(
    config: &RecoverConfig,
    cluster: &Arc<Cluster>,
    board: &StatusBoard,
) -> anyhow::Result<Recovered> {
    let mut backoff = Backoff::new(RECOVER_RETRY_DELAY_MIN, RECOVER_RETRY_DELAY_MAX);
    let mut told = String::new();
    let mut recovery = Recovery { wanted: config.primary_name, found: None, term_floor: Term::ZERO };
    loop {
        let failed = match recovery.attempt(cluster, board).await {
            Ok(recovered) => return Ok(recovered),
            Err(Failed::Taken(primary)) => bail!(Failed::Taken(primary)),
            Err(failed) => failed,
        };
        if let Failed::Lost(LostTerm::Deposed { term, .. }) = failed {
            recovery.term_floor = recovery.term_floor.max(term);
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
    #[error("no majority voted for one of the candidates within {} s", .0.as_secs())]
    Undecided(Duration),
    #[error("the log cannot be given to a primary: {0}")]
    NotGiven(#[from] ChangeError),
    #[error("another failover was faster: the log was given to primary {0} meanwhile")]
    Taken(PrimaryName),
}

/// What outlives an attempt.
struct Recovery {
    wanted: Option<PrimaryName>,
    /// Who the log belonged to when it was asked for the first time. Whoever changed that since then decided on the same
    /// failover, and to overrule him unseen would leave two operators each with the answer that he won.
    found: Option<Option<PrimaryId>>,
    term_floor: Term,
}

impl Recovery {
    /// One campaign. A safekeeper that is away is waited for.
    async fn attempt(&mut self, cluster: &Arc<Cluster>, board: &StatusBoard) -> Result<Recovered, Failed> {
        let options = ProposerOptions {
            id: cluster.id,
            proposer_id: ProposerId(rand::random()),
            segment_size: segment_size(cluster, board).await?,
            system_id: SystemId(0),
            pg_version: 0,
            tli: None,
            safekeepers: cluster.nodes(),
            term_floor: self.term_floor,
            primary: None,
            send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
        };
        let mut campaign = Campaign::start(cluster, options, board);
        let within = election_timeout(&mut rand::rng());
        let mut deadline = None;
        loop {
            let action = tokio::select! {
                action = campaign.next() => action?,
                () = due(deadline) => return Err(Failed::Undecided(within)),
            };
            match action {
                Action::PreVoted { .. } => {
                    self.compare_designated(&campaign)?;
                    campaign.campaign()?;
                    deadline = Some(Instant::now() + within);
                }
                Action::Elected(election) => {
                    tracing::info!(term = %election.term, end_lsn = %election.start, donor = %election.donor, "elected");
                    self.compare_designated(&campaign)?;
                    campaign.approve(WalBuffer::new(election.start));
                    return self.settle(campaign, election).await;
                }
                Action::Committed(_) | Action::Configured(_) | Action::Checksum { .. } | Action::Reset(_) => {
                }
            }
        }
    }

    /// Whether the log still belongs to whom it did.
    fn compare_designated(&mut self, campaign: &Campaign) -> Result<(), Failed> {
        let designated = designated(campaign);
        let found = *self.found.get_or_insert(designated);
        match (self.wanted, designated) {
            (Some(wanted), Some(other)) if designated != found && other != wanted.0 => {
                Err(Failed::Taken(PrimaryName(other)))
            }
            _ => Ok(()),
        }
    }

    /// Waits until a quorum has persisted that everything is committed, and then that the log is the new primary's.
    async fn settle(&self, mut campaign: Campaign, election: Election) -> Result<Recovered, Failed> {
        loop {
            if campaign.proposer().start_commit_is_persisted() && self.is_given(&mut campaign)? {
                let configuration = campaign.proposer().configuration();
                return Ok(Recovered {
                    end_lsn: election.start.to_string(),
                    term: election.term.0,
                    tli: election.tli.map(|tli| tli.0),
                    primary: designated(&campaign).map(|id| PrimaryName(id).to_string()),
                    generation: configuration.map_or(0, |configuration| configuration.generation.0),
                });
            }
            if campaign.proposer().is_stuck() {
                return Err(Failed::DonorLost);
            }
            campaign.changed().await?;
        }
    }

    /// Gives the log to the primary that takes over, if there is one; true when that is decided.
    fn is_given(&self, campaign: &mut Campaign) -> Result<bool, Failed> {
        let Some(wanted) = self.wanted else { return Ok(true) };
        match campaign.change(ConfigurationChange::Primary(wanted.0)) {
            Ok(ChangeAccepted::Already(_)) => Ok(true),
            Ok(ChangeAccepted::Begun(_))
            | Err(ChangeError::UnderWay(_) | ChangeError::Refused(ChangeRefused::Undecided(_))) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }
}

fn designated(campaign: &Campaign) -> Option<PrimaryId> {
    campaign.proposer().configuration().and_then(|configuration| configuration.primary)
}

/// There is no primary to ask: any safekeeper of the log knows.
async fn segment_size(cluster: &Cluster, board: &StatusBoard) -> Result<SegmentSize, Failed> {
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

fn missing(snapshot: &StatusSnapshot) -> String {
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
