//! One leadership: from connecting to the primary until that connection ends, **one connection, one term**. Each stage is
//! a type that is made from the stage before:
//!
//! ```text
//! Connected --positions, check, votes--> Elected --check, compare bytes--> Streaming --> LeadershipEnd
//! ```
//!
//! When a leadership ends, all of it ends: proposer, links and the connection to the primary are dropped, and the next one
//! begins with a new campaign. Nothing but two facts is carried over ([`CarryOver`]), so no old state has to be repaired.
//! Called by `leadership_loop`.

mod carry_over;
mod commit_waits;
mod comparison;
mod end;
mod streaming;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Action, Election, ProposerOptions};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument, info_span};
use utils::Shutdown;
use wal_types::{Lsn, ProposerId, Tli};

pub(crate) use self::carry_over::CarryOver;
use self::comparison::Comparison;
pub(crate) use self::end::LeadershipEnd;
use self::streaming::Streaming;
use crate::admin_requests::AdminRequest;
use crate::campaign::{Campaign, election_timeout, sleep_until_due};
use crate::config::{Cluster, RunConfig};
use crate::continuation::{self, TimelineFork};
use crate::primary::{Primary, PrimaryError, PrimaryFacts, PrimaryPosition};
use crate::settings_watch::{self, SettingsWatch};
use crate::status::{LeadershipState, StatusBoard};

/// While no WAL is streamed, the primary is asked for its position this often, to see that it is still there.
const PRIMARY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs one leadership to its end.
pub(crate) async fn run(
    config: &RunConfig,
    cluster: &Arc<Cluster>,
    board: &StatusBoard,
    carry_over: CarryOver,
    requests: &mut mpsc::Receiver<AdminRequest>,
    shutdown: &Shutdown,
) -> Result<Infallible, LeadershipEnd> {
    // The election may be cancelled at any point: nothing was acknowledged yet, so there is nothing to finish.
    let streaming = tokio::select! {
        led = lead(config, cluster, board, carry_over) => led?,
        () = shutdown.draining() => return Err(LeadershipEnd::Shutdown),
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

/// First stage: the primary is connected, and the safekeepers are asked for their positions.
struct Connected<'a> {
    config: &'a RunConfig,
    board: &'a StatusBoard,
    carry_over: CarryOver,
    primary: Primary,
    campaign: Campaign,
    settings_watch: SettingsWatch,
}

impl<'a> Connected<'a> {
    async fn new(
        config: &'a RunConfig,
        cluster: &Arc<Cluster>,
        board: &'a StatusBoard,
        carry_over: CarryOver,
    ) -> Result<Self, LeadershipEnd> {
        let (primary, position) = Primary::connect(config).await?;
        let PrimaryFacts { system_id, segment_size, version, .. } = primary.facts;
        tracing::info!(primary = %config.primary, %system_id, tli = %position.tli, flush_lsn = %position.flush_lsn, "connected to the primary");
        settings_watch::show_server(config, board, primary.settings.clone());
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
            primary: config.primary_name.map(|name| consensus::Primary::named(name.0)),
            send_buffer_bytes_max: config.send_buffer_bytes_max,
        };
        let campaign = Campaign::start(cluster, options, board);
        let settings_watch = SettingsWatch::start(config, board);
        Ok(Self { config, board, carry_over, primary, campaign, settings_watch })
    }

    /// Collects positions, checks the primary, and requests votes.
    async fn elect(mut self) -> Result<Elected<'a>, LeadershipEnd> {
        let mut probe = interval(PRIMARY_PROBE_INTERVAL);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let vote_timeout = election_timeout(&mut rand::rng());
        let mut deadline = None;

        loop {
            // Every arm may be cancelled: an action that was not returned stays queued, a due time stays due.
            let action = tokio::select! {
                action = self.campaign.next() => action?,
                () = sleep_until_due(deadline) => return Err(LeadershipEnd::NoMajority(vote_timeout)),
                _ = probe.tick() => {
                    self.position().await?;
                    continue;
                }
            };

            match action {
                Action::PreVoted { flush_lsn, tli, .. } => {
                    self.check(flush_lsn, tli).await?;
                    self.board.enter(LeadershipState::Campaigning);
                    self.campaign.request_votes()?;
                    deadline = Some(Instant::now() + vote_timeout);
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

    /// Checks that the primary, at its present position, continues a log that ends at `end` on timeline `log_tli`.
    async fn check(
        &mut self,
        end: Lsn,
        log_tli: Option<Tli>,
    ) -> Result<(PrimaryPosition, Option<TimelineFork>), LeadershipEnd> {
        let position = self.position().await?;
        let segment_size = self.primary.facts.segment_size;
        let fork = if continuation::needs_timeline_history(position, end, log_tli, segment_size) {
            continuation::parse_last_fork(&self.primary.timeline_history(position.tli).await?)
        } else {
            None
        };
        continuation::check(position, fork, end, log_tli)?;
        Ok((position, fork))
    }
}

/// Second stage: a quorum granted the term, and no safekeeper was told to follow yet.
struct Elected<'a> {
    connected: Connected<'a>,
    election: Election,
}

impl<'a> Elected<'a> {
    /// Verifies that the primary has the same bytes as the end of the log. A server that was rolled back or cloned has other
    /// bytes there, and would overwrite WAL that may be committed.
    async fn compare(mut self) -> Result<Streaming<'a>, LeadershipEnd> {
        let Election { start: end, donor, tli, .. } = self.election;
        self.connected.board.enter(LeadershipState::Checking);
        let (position, fork) = self.connected.check(end, tli).await?;
        let Connected { config, board, carry_over, primary, mut campaign, settings_watch } = self.connected;
        let PrimaryFacts { segment_size, slot_restart_lsn, .. } = primary.facts;

        // Only the walproposer moves the slot, and only to a position up to which the quorum had everything that this
        // primary sent: below it the log is this primary's own.
        let acknowledged = slot_restart_lsn == end && tli == Some(position.tli);
        let from = if acknowledged && carry_over.acknowledged_end == Some(end) {
            tracing::warn!(%end, "skipping the comparison of WAL: the primary has removed WAL that was acknowledged to it");
            end
        } else {
            self.election.compare_from(segment_size)
        };
        let stream_tli = if from < end {
            continuation::timeline_before(position, fork, end, segment_size)
        } else {
            position.tli
        };
        let mut stream = primary.stream(&config.slot, from, stream_tli).await?;

        let stream_ends = stream_tli != position.tli;
        let comparison = Comparison { donor, from, end, stream_ends };
        let wal = comparison.run(&mut campaign, &mut stream).await.map_err(|error| match error {
            LeadershipEnd::Primary(PrimaryError::WalRemoved(_)) if acknowledged => {
                LeadershipEnd::AcknowledgedSegmentGone { end }
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
        Ok(Streaming::new(board, campaign, stream, settings_watch))
    }
}
