//! `walproposer recover`: one election without a primary. It settles where the log ends and adds nothing to it.
//!
//! A quorum promises a new term, so that no older proposer can move the end any more. The newest log among the voters is
//! copied to a quorum and committed there. The recovery is complete when a quorum has *persisted* the commit: every later
//! reader of the log, even of copies of the disks, finds all of it committed.
//!
//! For a failover, the recovery then gives the log to the primary that takes over: a quorum stores its name under the same
//! term, and a walproposer of any other primary does not lead from then on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use consensus::{
    Action, ChangeRefused, ConfigurationChange, Election, LostTerm, Primary, ProposerOptions, WalBuffer,
};
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, info_span};
use utils::Backoff;
use wal_types::{ProposerId, SegmentSize, SystemId, Term};

use crate::campaign::{Campaign, election_timeout, sleep_until_due};
use crate::change_result::{ChangeAccepted, ChangeError};
use crate::config::{Cluster, RecoverConfig, SEND_BUFFER_BYTES_MAX, SafekeeperAddress};
use crate::primary_name::PrimaryName;
use crate::status::{LinkState, StatusBoard, StatusSnapshot};
use crate::{primary, safekeeper_client};

const RECOVER_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RECOVER_RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Time for the answer to SHOW.
const SHOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// End of the log: everything below is committed.
    pub end_lsn: String,
    /// Term under which the end was settled.
    pub term: u64,
    /// PostgreSQL timeline at the end; none when the log is empty.
    pub tli: Option<u32>,
    /// The only primary whose WAL the log takes; none: any primary.
    pub primary: Option<String>,
    /// Generation of the configuration that names the primary.
    pub generation: u32,
}

/// Settles the end of the log. Tries again until it succeeds or the time is up; then the error names the safekeepers that
/// were missing.
pub async fn run(config: &RecoverConfig) -> anyhow::Result<Recovered> {
    let cluster = Arc::new(config.cluster.clone());
    let board = StatusBoard::new(&cluster);
    let attempts = attempt_until_settled(config, &cluster, &board).instrument(info_span!("recovery"));
    match timeout(config.timeout, attempts).await {
        Ok(result) => result,
        // The errors of the safekeepers say more than the elapsed time.
        Err(_) => bail!(
            "end of the log not settled within {}: {}",
            humantime::format_duration(config.timeout),
            missing_safekeepers(&board.read())
        ),
    }
}

async fn attempt_until_settled(
    config: &RecoverConfig,
    cluster: &Arc<Cluster>,
    board: &StatusBoard,
) -> anyhow::Result<Recovered> {
    let mut backoff = Backoff::new(RECOVER_RETRY_DELAY_MIN, RECOVER_RETRY_DELAY_MAX);
    let mut logged_error = String::new();
    let mut recovery =
        Recovery { wanted: config.primary_name, first_designated: None, term_floor: Term::ZERO };

    loop {
        let failed = match recovery.attempt(cluster, board).await {
            Ok(recovered) => return Ok(recovered),
            Err(AttemptError::GivenToAnother(primary)) => bail!(AttemptError::GivenToAnother(primary)),
            Err(AttemptError::Lost(lost @ LostTerm::NeedsVersion(_))) => bail!(lost),
            Err(failed) => failed,
        };

        if let AttemptError::Lost(LostTerm::Deposed { term, .. }) = failed {
            recovery.term_floor = recovery.term_floor.max(term);
        }
        let error = failed.to_string();
        if error != logged_error {
            tracing::warn!(error, "end of the log not settled yet, trying again");
        }
        board.update(|snapshot| snapshot.refusal = Some(error.clone()));
        logged_error = error;
        backoff.wait().await;
    }
}

/// Reason for which one attempt did not settle the log.
#[derive(Debug, Error)]
enum AttemptError {
    #[error(transparent)]
    Lost(#[from] LostTerm),
    #[error("no safekeeper answers: {0}")]
    NoSafekeeper(String),
    #[error(
        "the safekeeper with the newest log is gone, but a quorum is connected without it: electing again"
    )]
    DonorLost,
    #[error("no candidate has a majority of the votes after {} s", .0.as_secs())]
    NoMajority(Duration),
    #[error("cannot give the log to a primary: {0}")]
    NotGiven(#[from] ChangeError),
    #[error("another failover was faster: the log was given to primary {0} meanwhile")]
    GivenToAnother(PrimaryName),
}

/// State that is kept between attempts.
struct Recovery {
    /// Primary that the log is to be given to.
    wanted: Option<PrimaryName>,
    /// Designated primary when the configuration was read for the first time. A change since then was made by another
    /// operator for the same failover. To overrule it silently would report success to both operators.
    first_designated: Option<Option<Primary>>,
    term_floor: Term,
}

impl Recovery {
    /// One campaign. Waits for safekeepers that are away.
    async fn attempt(
        &mut self,
        cluster: &Arc<Cluster>,
        board: &StatusBoard,
    ) -> Result<Recovered, AttemptError> {
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
        let vote_timeout = election_timeout(&mut rand::rng());
        let mut deadline = None;

        loop {
            // Both arms may be cancelled: an action that was not returned stays queued.
            let action = tokio::select! {
                action = campaign.next() => action?,
                () = sleep_until_due(deadline) => return Err(AttemptError::NoMajority(vote_timeout)),
            };
            match action {
                Action::PreVoted { .. } => {
                    self.check_designated(&campaign)?;
                    campaign.request_votes()?;
                    deadline = Some(Instant::now() + vote_timeout);
                }
                Action::Elected(election) => {
                    tracing::info!(term = %election.term, end_lsn = %election.start, donor = %election.donor, "elected");
                    self.check_designated(&campaign)?;
                    campaign.approve(WalBuffer::new(election.start));
                    return self.settle(campaign, election).await;
                }
                Action::Committed(_) | Action::Configured(_) | Action::Checksum { .. } | Action::Reset(_) => {
                }
            }
        }
    }

    /// Fails when the log was given to another primary than the wanted one since the first attempt.
    fn check_designated(&mut self, campaign: &Campaign) -> Result<(), AttemptError> {
        let designated = designated(campaign);
        let first = *self.first_designated.get_or_insert(designated);
        match (self.wanted, designated) {
            (Some(wanted), Some(other)) if designated != first && other.name != wanted.0 => {
                Err(AttemptError::GivenToAnother(PrimaryName(other.name)))
            }
            _ => Ok(()),
        }
    }

    /// Waits until a quorum has persisted that everything is committed, and until the log is given to the wanted primary.
    async fn settle(&self, mut campaign: Campaign, election: Election) -> Result<Recovered, AttemptError> {
        loop {
            if campaign.proposer().start_commit_is_persisted() && self.is_given(&mut campaign)? {
                let configuration = campaign.proposer().configuration();
                return Ok(Recovered {
                    end_lsn: election.start.to_string(),
                    term: election.term.0,
                    tli: election.tli.map(|tli| tli.0),
                    primary: designated(&campaign).map(|primary| PrimaryName(primary.name).to_string()),
                    generation: configuration.map_or(0, |configuration| configuration.generation.0),
                });
            }
            if campaign.is_stuck() {
                return Err(AttemptError::DonorLost);
            }
            campaign.step().await?;
        }
    }

    /// Gives the log to the wanted primary, if there is one. True when that is decided.
    fn is_given(&self, campaign: &mut Campaign) -> Result<bool, AttemptError> {
        let Some(wanted) = self.wanted else { return Ok(true) };
        match campaign.begin_change(ConfigurationChange::Primary(Primary::named(wanted.0))) {
            Ok(ChangeAccepted::Already(_)) => Ok(true),
            Ok(ChangeAccepted::Begun(_))
            | Err(ChangeError::UnderWay(_) | ChangeError::Refused(ChangeRefused::Undecided(_))) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }
}

fn designated(campaign: &Campaign) -> Option<Primary> {
    campaign.proposer().configuration().and_then(|configuration| configuration.primary)
}

/// The segment size of the log, from any of its safekeepers: there is no primary to ask.
async fn segment_size(cluster: &Cluster, board: &StatusBoard) -> Result<SegmentSize, AttemptError> {
    let mut errors = Vec::new();
    for address in &cluster.safekeepers {
        let error = match show_segment_size(cluster, address).await {
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
    Err(AttemptError::NoSafekeeper(errors.join("; ")))
}

async fn show_segment_size(cluster: &Cluster, address: &SafekeeperAddress) -> Result<SegmentSize, String> {
    let query = async {
        let mut client = safekeeper_client::connect(cluster, address).await?;
        client.simple_query("SHOW wal_segment_size").await
    };
    let answered =
        timeout(SHOW_TIMEOUT, query).await.map_err(|_| "no answer to SHOW wal_segment_size".to_owned())?;
    let rows = answered.map_err(|error| error.to_string())?;
    let text = rows.first().and_then(|row| row.at(0)).unwrap_or_default();
    primary::parse_segment_size(text).ok_or_else(|| format!("invalid wal_segment_size {text:?}"))
}

/// Names the safekeepers that do not follow, with the error of each; without any, the last reason for a failure.
fn missing_safekeepers(snapshot: &StatusSnapshot) -> String {
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
