//! One turn of serving a primary: **one connection to it, one term**. Each stage is a type, made from the one before:
//!
//! ```text
//! Connected --survey, check, votes--> Elected --check, compare bytes--> Streaming --> End
//! ```
//!
//! Whatever ends a turn ends all of it: proposer, links and the connection to the primary are dropped, and the next turn
//! begins with a new campaign. Nothing is carried over, so nothing has to be repaired. Called by `driver`.

mod streaming;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Action, Election, LostTerm, ProposerOptions, WalBuffer};
use pq_proto::replication::FromPrimary;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use utils::Shutdown;
use wal_types::{Lsn, NodeId, ProposerId, Tli};

use self::streaming::Streaming;
use crate::campaign::Campaign;
use crate::check::{self, NotAContinuation};
use crate::config::{Cluster, RunConfig};
use crate::primary::{Facts, Primary, PrimaryError, PrimaryPosition};
use crate::status::{Board, State};

/// While nothing is streamed, the primary is asked this often whether it is still there.
const PRIMARY_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// For reading one segment from the primary and the donor's answer about it.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a turn ended.
#[derive(Debug, Error)]
pub(crate) enum End {
    #[error(transparent)]
    Primary(#[from] PrimaryError),
    #[error(transparent)]
    Lost(#[from] LostTerm),
    #[error(transparent)]
    NotAContinuation(#[from] NotAContinuation),
    #[error(
        "the primary's WAL from {from} to {to} differs from what safekeeper {donor} has: the primary was rolled back or belongs to another history; nothing was sent"
    )]
    OtherBytes { donor: NodeId, from: Lsn, to: Lsn },
    #[error("the primary's WAL could not be compared: {0}")]
    NotCompared(&'static str),
    #[error("the primary's WAL goes on at {got} instead of {expected}")]
    Gap { expected: Lsn, got: Lsn },
    #[error("the walproposer was told to end")]
    Leaving,
    #[error(
        "no safekeeper that is connected has the WAL that a quorum lacks: it is read from the primary in a new term"
    )]
    Stuck,
}

/// Runs one turn.
pub(crate) async fn run(
    config: &RunConfig,
    cluster: &Arc<Cluster>,
    board: &Board,
    shutdown: &Shutdown,
) -> Result<Infallible, End> {
    // Dropped in the middle of whatever it does, before anything was acknowledged: there is nothing to bring to an end.
    let streaming = tokio::select! {
        led = lead(config, cluster, board) => led?,
        () = shutdown.draining() => return Err(End::Leaving),
    };
    streaming.run(shutdown).await
}

async fn lead<'a>(
    config: &'a RunConfig,
    cluster: &Arc<Cluster>,
    board: &'a Board,
) -> Result<Streaming<'a>, End> {
    let connected = Connected::new(config, cluster, board).await?;
    let elected = connected.elect().await?;
    elected.compare().await
}

/// The primary answers, the safekeepers are being asked.
struct Connected<'a> {
    config: &'a RunConfig,
    board: &'a Board,
    primary: Primary,
    campaign: Campaign,
}

impl<'a> Connected<'a> {
    async fn new(config: &'a RunConfig, cluster: &Arc<Cluster>, board: &'a Board) -> Result<Self, End> {
        let (primary, position) = Primary::connect(config).await?;
        let Facts { system_id, segment_size, version } = primary.facts;
        tracing::info!(primary = %config.primary, %system_id, tli = %position.tli, flush_lsn = %position.flush_lsn, "connected to the primary");
        board.enter(State::Collecting);
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
            term_floor: wal_types::Term::ZERO,
            send_buffer_bytes_max: config.send_buffer_bytes_max,
        };
        Ok(Self { config, board, primary, campaign: Campaign::start(cluster, options, board) })
    }

    /// Surveys, checks the primary, and asks for votes.
    async fn elect(mut self) -> Result<Elected<'a>, End> {
        let mut probe = interval(PRIMARY_PROBE_INTERVAL);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both may be dropped: an action that was not returned stays queued, a tick stays due.
            let action = tokio::select! {
                action = self.campaign.next() => action?,
                _ = probe.tick() => {
                    self.position().await?;
                    continue;
                }
            };
            match action {
                Action::Surveyed { flush_lsn, tli, .. } => {
                    self.check(flush_lsn, tli).await?;
                    self.board.enter(State::Campaigning);
                    self.campaign.campaign()?;
                }
                Action::Elected(election) => {
                    let Election { term, start, donor, .. } = election;
                    tracing::info!(%term, start_lsn = %start, %donor, "elected");
                    self.board.update(|snapshot| snapshot.elections += 1);
                    return Ok(Elected { connected: self, election });
                }
                Action::Committed(_) | Action::Checksum { .. } | Action::Reset(_) => {}
            }
        }
    }

    async fn position(&mut self) -> Result<PrimaryPosition, PrimaryError> {
        let position = self.primary.position().await?;
        self.board.update(|snapshot| snapshot.primary_flush_lsn = position.flush_lsn);
        Ok(position)
    }

    /// Is the primary, as it is now, a continuation of the log?
    async fn check(&mut self, end: Lsn, log_tli: Option<Tli>) -> Result<PrimaryPosition, End> {
        let position = self.position().await?;
        let fork = if check::needs_fork(position, log_tli) {
            check::last_fork(&self.primary.timeline_history(position.tli).await?)
        } else {
            None
        };
        check::continues(position, fork, end, log_tli)?;
        Ok(position)
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
    async fn compare(mut self) -> Result<Streaming<'a>, End> {
        let Election { start: end, donor, tli, .. } = self.election;
        self.connected.board.enter(State::Checking);
        let position = self.connected.check(end, tli).await?;
        let Connected { config, board, primary, mut campaign } = self.connected;
        let segment_size = primary.facts.segment_size;
        let from = self.election.compare_from(segment_size);
        let mut stream = primary.stream(&config.slot, from, position.tli).await?;

        let asked = campaign.incarnation(donor);
        let mut wal = WalBuffer::new(from);
        let mut ours = 0;
        let mut theirs = (from == end).then_some(Some(0));
        if theirs.is_none() {
            campaign.ask_checksum(donor, from, end);
        }
        let deadline = Instant::now() + COMPARE_TIMEOUT;
        while wal.end() < end || theirs.is_none() {
            // All may be dropped: what was not returned stays queued.
            tokio::select! {
                action = campaign.next() => {
                    if let Action::Checksum { from: node, response } = action?
                        && (node, response.from, response.to) == (donor, from, end)
                    {
                        theirs = Some(response.crc32c);
                    }
                }
                item = stream.next_or_end(wal.end() < end) => if let FromPrimary::XLogData(piece) = item? {
                    let covered = end.bytes_since(piece.start).min(piece.data.len() as u64) as usize;
                    ours = crc32c::crc32c_append(ours, &piece.data[..covered]);
                    let expected = wal.end();
                    if !wal.push(piece.start, piece.data) {
                        return Err(End::Gap { expected, got: piece.start });
                    }
                },
                () = sleep_until(deadline) => return Err(End::NotCompared("no answer in time")),
            }
            if theirs.is_none() && campaign.incarnation(donor) != asked {
                return Err(End::NotCompared(
                    "the connection to the safekeeper with the newest log was lost",
                ));
            }
        }
        match theirs.flatten() {
            Some(theirs) if theirs == ours => {}
            Some(_) => return Err(End::OtherBytes { donor, from, to: end }),
            None => {
                return Err(End::NotCompared("the safekeeper with the newest log no longer holds all of it"));
            }
        }
        campaign.approve(wal);
        board.enter(State::Streaming);
        board.update(|snapshot| snapshot.refusal = None);
        Ok(Streaming { board, campaign, stream })
    }
}
