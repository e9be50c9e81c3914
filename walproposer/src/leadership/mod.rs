//! One turn of serving a primary: **one connection to it, one term**. Each stage is a type, made from the one before:
//!
//! ```text
//! Connected --survey, check, votes--> Elected --check, compare bytes--> Streaming --> LeadershipEnd
//! ```
//!
//! Whatever ends a turn ends all of it: proposer, links and the connection to the primary are dropped, and the next turn
//! begins with a new campaign. Two facts are handed on ([`CarryOver`]), and no state, so nothing has to be repaired. Called
//! by `driver`.

mod carry_over;
mod comparison;
mod streaming;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Action, Election, LostTerm, ProposerOptions};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument, info_span};
use utils::Shutdown;
use wal_types::{Lsn, NodeId, ProposerId, Tli};

pub(crate) use self::carry_over::CarryOver;
use self::comparison::Comparison;
use self::streaming::Streaming;
use crate::admin_requests::AdminRequest;
use crate::campaign::{Campaign, due, election_timeout};
use crate::config::{Cluster, RunConfig};
use crate::continuation::{self, NotAContinuation, TimelineFork};
use crate::primary::{Facts, Primary, PrimaryError, PrimaryPosition};
use crate::primary_name::PrimaryName;
use crate::status::{LeadershipState, StatusBoard};

/// While nothing is streamed, the primary is asked this often whether it is still there.
const PRIMARY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a turn ended.
#[derive(Debug, Error)]
pub(crate) enum LeadershipEnd {
    #[error(transparent)]
    Primary(#[from] PrimaryError),
    #[error(transparent)]
    Lost(LostTerm),
    #[error(
        "the log was given to primary {0} and takes no other one's WAL; this walproposer was not started with --primary-name {0}: if its primary was replaced, stop both"
    )]
    NotDesignated(PrimaryName),
    #[error("no majority voted for one of the candidates within {} s", .0.as_secs())]
    Undecided(Duration),
    #[error(transparent)]
    NotAContinuation(#[from] NotAContinuation),
    #[error(
        "the primary's WAL from {from} to {to} differs from what safekeeper {donor} has: the primary was rolled back or belongs to another history; nothing was sent"
    )]
    OtherBytes { donor: NodeId, from: Lsn, to: Lsn },
    #[error("the primary's WAL could not be compared: {0}")]
    NotCompared(&'static str),
    #[error(
        "the primary no longer has the last segment of the log, its WAL from {from} to {to}, so that it cannot be compared with the safekeepers': set wal_keep_size on the primary and its standbys so that they keep such a segment, and seed the safekeepers anew"
    )]
    SegmentGone { from: Lsn, to: Lsn },
    #[error(
        "the primary no longer has the last segment of the log, but its slot stands at the end of it, {end}: the next term goes on there"
    )]
    SegmentAcknowledged { end: Lsn },
    #[error("the primary's WAL goes on at {got} instead of {expected}")]
    Gap { expected: Lsn, got: Lsn },
    #[error("the walproposer was told to end")]
    Leaving,
    #[error(
        "no safekeeper that is connected has the WAL that a quorum lacks: it is read from the primary in a new term"
    )]
    Stuck,
}

impl From<LostTerm> for LeadershipEnd {
    fn from(lost: LostTerm) -> Self {
        match lost {
            LostTerm::NotDesignated { designated } => Self::NotDesignated(PrimaryName(designated)),
            other => Self::Lost(other),
        }
    }
}

/// Runs one turn.
pub(crate) async fn run(
    config: &RunConfig,
    cluster: &Arc<Cluster>,
    board: &StatusBoard,
    carry_over: CarryOver,
    requests: &mut mpsc::Receiver<AdminRequest>,
    shutdown: &Shutdown,
) -> Result<Infallible, LeadershipEnd> {
    // Dropped in the middle of whatever it does, before anything was acknowledged: there is nothing to bring to an end.
    let streaming = tokio::select! {
        led = lead(config, cluster, board, carry_over) => led?,
        () = shutdown.draining() => return Err(LeadershipEnd::Leaving),
    };
    streaming.run(requests, shutdown).await
}

async fn lead<'a>(
    config: &'a RunConfig,
    cluster: &Arc<Cluster>,
    board: &'a StatusBoard,
    carry_over: CarryOver,
) -> Result<Streaming<'a>, LeadershipEnd> {
    let connected = Connected::new(config, cluster, board, carry_over).await?;
    let elected = connected.elect().instrument(info_span!("election")).await?;
    elected.compare().instrument(info_span!("comparison")).await
}

/// The primary answers, the safekeepers are being asked.
struct Connected<'a> {
    config: &'a RunConfig,
    board: &'a StatusBoard,
    carry_over: CarryOver,
    primary: Primary,
    campaign: Campaign,
}

impl<'a> Connected<'a> {
    async fn new(
        config: &'a RunConfig,
        cluster: &Arc<Cluster>,
        board: &'a StatusBoard,
        carry_over: CarryOver,
    ) -> Result<Self, LeadershipEnd> {
        let (primary, position) = Primary::connect(config).await?;
        let Facts { system_id, segment_size, version, .. } = primary.facts;
        tracing::info!(primary = %config.primary, %system_id, tli = %position.tli, flush_lsn = %position.flush_lsn, "connected to the primary");
        board.enter(LeadershipState::Collecting);
        board.update(|snapshot| {
            snapshot.primary_error = None;
            snapshot.primary_flush_lsn = position.flush_lsn;
        });
        let options = ProposerOptions {
            id: cluster.id,
            proposer_id: ProposerId(rand::random()),
            segment_size,
            system_id,
            pg_version: version,
            tli: Some(position.tli),
            safekeepers: cluster.nodes(),
            term_floor: carry_over.term_floor,
            primary: config.primary_name.map(|name| name.0),
            send_buffer_bytes_max: config.send_buffer_bytes_max,
        };
        Ok(Self { config, board, carry_over, primary, campaign: Campaign::start(cluster, options, board) })
    }

    /// Surveys, checks the primary, and asks for votes.
    async fn elect(mut self) -> Result<Elected<'a>, LeadershipEnd> {
        let mut probe = interval(PRIMARY_PROBE_INTERVAL);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let within = election_timeout(&mut rand::rng());
        let mut deadline = None;
        loop {
            // All may be dropped: an action that was not returned stays queued, what is due stays due.
            let action = tokio::select! {
                action = self.campaign.next() => action?,
                () = due(deadline) => return Err(LeadershipEnd::Undecided(within)),
                _ = probe.tick() => {
                    self.position().await?;
                    continue;
                }
            };
            match action {
                Action::PreVoted { flush_lsn, tli, .. } => {
                    self.check(flush_lsn, tli).await?;
                    self.board.enter(LeadershipState::Campaigning);
                    self.campaign.campaign()?;
                    deadline = Some(Instant::now() + within);
                }
                Action::Elected(election) => {
                    let Election { term, start, donor, .. } = election;
                    tracing::info!(%term, start_lsn = %start, %donor, "elected");
                    self.board.update(|snapshot| snapshot.elections += 1);
                    return Ok(Elected { connected: self, election });
                }
                Action::Committed(_) | Action::Configured(_) | Action::Checksum { .. } | Action::Reset(_) => {
                }
            }
        }
    }

    async fn position(&mut self) -> Result<PrimaryPosition, PrimaryError> {
        let position = self.primary.position().await?;
        self.board.update(|snapshot| snapshot.primary_flush_lsn = position.flush_lsn);
        Ok(position)
    }

    /// Is the primary, as it is now, a continuation of the log?
    async fn check(
        &mut self,
        end: Lsn,
        log_tli: Option<Tli>,
    ) -> Result<(PrimaryPosition, Option<TimelineFork>), LeadershipEnd> {
        let position = self.position().await?;
        let fork = if continuation::needs_timeline_history(
            position,
            end,
            log_tli,
            self.primary.facts.segment_size,
        ) {
            continuation::parse_last_fork(&self.primary.timeline_history(position.tli).await?)
        } else {
            None
        };
        continuation::check(position, fork, end, log_tli)?;
        Ok((position, fork))
    }
}

/// A quorum granted the term, and nobody was told to follow.
struct Elected<'a> {
    connected: Connected<'a>,
    election: Election,
}

impl<'a> Elected<'a> {
    /// Shows that the primary has the very bytes that the log ends with. What a server that was rolled back or cloned
    /// has in their place would overwrite WAL that may be committed.
    async fn compare(mut self) -> Result<Streaming<'a>, LeadershipEnd> {
        let Election { start: end, donor, tli, .. } = self.election;
        self.connected.board.enter(LeadershipState::Checking);
        let (position, fork) = self.connected.check(end, tli).await?;
        let Connected { config, board, carry_over, primary, mut campaign } = self.connected;
        let Facts { segment_size, slot_restart_lsn, .. } = primary.facts;
        // Only we move the slot, and only to where the quorum had all that this primary sent: up to there the log is
        // this primary's own.
        let acknowledged = slot_restart_lsn == end && tli == Some(position.tli);
        let from = if acknowledged && carry_over.acknowledged_end == Some(end) {
            tracing::warn!(%end, "WAL is not compared: the primary has removed what it was told is stored");
            end
        } else {
            self.election.compare_from(segment_size)
        };
        let read_on = if from < end {
            continuation::timeline_before(position, fork, end, segment_size)
        } else {
            position.tli
        };
        let mut stream = primary.stream(&config.slot, from, read_on).await?;

        let stream_ends = read_on != position.tli;
        let comparison = Comparison { donor, from, end, stream_ends };
        let wal = comparison.run(&mut campaign, &mut stream).await.map_err(|error| match error {
            LeadershipEnd::Primary(PrimaryError::WalRemoved(_)) if acknowledged => {
                LeadershipEnd::SegmentAcknowledged { end }
            }
            LeadershipEnd::Primary(PrimaryError::WalRemoved(_)) => {
                LeadershipEnd::SegmentGone { from, to: end }
            }
            other => other,
        })?;
        if stream_ends {
            stream = stream.next_timeline(&config.slot, end, position.tli).await?;
        }
        campaign.approve(wal);
        board.enter(LeadershipState::Streaming);
        board.update(|snapshot| snapshot.refusal = None);
        Ok(Streaming { board, campaign, stream })
    }
}
