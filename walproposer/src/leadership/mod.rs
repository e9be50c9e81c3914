//! One leadership: from connecting to the primary until that connection ends, **one connection, one term**. Each stage is
//! a type that is made from the stage before:
//!
//! ```text
//! Connected --positions, check, compare, votes--> Elected --check, compare--> Streaming --> LeadershipEnd
//! ```
//!
//! When a leadership ends, all of it ends: proposer, links and the connection to the primary are dropped, and the next one
//! begins with a new campaign. Nothing but two facts of the [`RetryPolicy`] is carried over, so no old state has to be
//! repaired. What is decided about the primary is decided by the crate `candidacy`. Called by `leadership_loop`.

mod commit_waits;
mod comparison;
mod end;
mod streaming;

use std::convert::Infallible;
use std::sync::Arc;

use candidacy::{ComparedRange, Comparison, PrimaryPosition, RetryPolicy, TimelineFork, Verdict};
use consensus::{Action, Election, ProposerOptions, WalBuffer};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument, info_span};
use utils::Shutdown;
use wal_types::{Lsn, ProposerId, Tli};

pub(crate) use self::end::LeadershipEnd;
use self::streaming::Streaming;
use crate::admin_requests::AdminRequest;
use crate::campaign::{Campaign, election_timeout, sleep_until_due};
use crate::config::{Cluster, RunConfig};
use crate::primary::{PRIMARY_PROBE_INTERVAL, Primary, PrimaryError, PrimaryFacts, WalStream};
use crate::primary_settings::PrimarySettings;
use crate::settings_watch::{self, SettingsWatch};
use crate::status::{LeadershipState, StatusBoard};

/// Runs one leadership to its end. `past` has the facts of those before it.
pub(crate) async fn run(
    config: &RunConfig,
    cluster: &Arc<Cluster>,
    board: &StatusBoard,
    past: &RetryPolicy,
    requests: &mut mpsc::Receiver<AdminRequest>,
    shutdown: &Shutdown,
) -> Result<Infallible, LeadershipEnd> {
    // The election may be cancelled at any point: nothing was acknowledged yet, so there is nothing to finish.
    let streaming = tokio::select! {
        led = lead(config, cluster, board, past) => led?,
        () = shutdown.draining() => return Err(LeadershipEnd::Shutdown),
    };
    streaming.run(requests, shutdown).await
}

async fn lead<'a>(
    config: &'a RunConfig,
    cluster: &Arc<Cluster>,
    board: &'a StatusBoard,
    past: &'a RetryPolicy,
) -> Result<Streaming<'a>, LeadershipEnd> {
    let connected = Connected::new(config, cluster, board, past).await?;
    let elected = connected.elect().instrument(info_span!("election")).await?;
    elected.compare().instrument(info_span!("comparison")).await
}

/// First stage: the primary is connected, and the safekeepers are asked for their positions.
struct Connected<'a> {
    config: &'a RunConfig,
    board: &'a StatusBoard,
    past: &'a RetryPolicy,
    primary: Primary,
    campaign: Campaign,
    settings_watch: SettingsWatch,
}

impl<'a> Connected<'a> {
    async fn new(
        config: &'a RunConfig,
        cluster: &Arc<Cluster>,
        board: &'a StatusBoard,
        past: &'a RetryPolicy,
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
            term_floor: past.term_floor(),
            primary: config.primary_name.map(|name| consensus::Primary::named(name.0)),
            send_buffer_bytes_max: config.send_buffer_bytes_max,
        };
        let campaign = Campaign::start(cluster, options, board);
        let settings_watch = SettingsWatch::start(config, board);
        Ok(Self { config, board, past, primary, campaign, settings_watch })
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
                Action::PreVoted { flush_lsn: end, commit_lsn, donor, start_lsn, tli } => {
                    let log = self.check(end, tli).await?;
                    let segment_size = self.primary.facts.segment_size;
                    let range = ComparedRange::of_survey(donor, end, commit_lsn, start_lsn, segment_size);
                    if let Some(range) = range.filter(|_| !self.skips_comparison(&log)) {
                        self = self.compare_before_votes(range, &log).await?;
                    }
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

    /// Checks that the primary, at its present position, continues a log that ends at `end` on timeline `tli`.
    async fn check(&mut self, end: Lsn, tli: Option<Tli>) -> Result<LogEnd, LeadershipEnd> {
        let position = self.position().await?;
        let segment_size = self.primary.facts.segment_size;
        let fork = if candidacy::needs_timeline_history(position, end, tli, segment_size) {
            candidacy::parse_last_fork(&self.primary.timeline_history(position.tli).await?)
        } else {
            None
        };
        candidacy::check(position, fork, end, tli)?;
        // Only the walproposer moves the slot, and only to a position up to which the quorum had everything that this
        // primary sent: below it the log is this primary's own.
        let acknowledged = self.primary.facts.slot_restart_lsn == end && tli == Some(position.tli);
        Ok(LogEnd { end, position, fork, acknowledged })
    }

    /// True when the bytes to compare are gone, and it was found out before that they were this primary's own.
    fn skips_comparison(&self, log: &LogEnd) -> bool {
        log.acknowledged && self.past.acknowledged_end() == Some(log.end)
    }

    /// Compares committed bytes before a term is spent: a primary with other WAL leaves the leader alone. Without an answer
    /// the votes decide, and the comparison behind them.
    async fn compare_before_votes(self, range: ComparedRange, log: &LogEnd) -> Result<Self, LeadershipEnd> {
        let Compared {
            config, board, past, facts, settings, campaign, settings_watch, stream, verdict, ..
        } = self.compare(range, log).await?;
        if verdict == Verdict::OtherBytes {
            return Err(other_bytes(range));
        }
        let primary = Primary::from_stream(stream, facts, settings).await?;
        Ok(Self { config, board, past, primary, campaign, settings_watch })
    }

    /// Compares a range of the log with the primary's WAL, and leaves the primary streaming.
    async fn compare(self, range: ComparedRange, log: &LogEnd) -> Result<Compared<'a>, LeadershipEnd> {
        let Self { config, board, past, primary, mut campaign, settings_watch } = self;
        let (facts, settings) = (primary.facts, primary.settings.clone());
        let LogEnd { end, position, fork, acknowledged } = *log;
        let stream_tli = if range.from < end {
            candidacy::timeline_before(position, fork, end, facts.segment_size)
        } else {
            position.tli
        };
        let mut stream = primary.stream(&config.slot, range.from, stream_tli).await?;

        let stream_ends = stream_tli != position.tli;
        let comparison = Comparison::new(range, stream_ends);
        let compared = comparison::run(comparison, &mut campaign, &mut stream).await;
        let (verdict, wal) = compared.map_err(|error| match error {
            LeadershipEnd::Primary(PrimaryError::WalRemoved(_)) if acknowledged => {
                LeadershipEnd::AcknowledgedSegmentGone { end }
            }
            LeadershipEnd::Primary(PrimaryError::WalRemoved(_)) => {
                LeadershipEnd::SegmentGone { from: range.from, to: range.to }
            }
            other => other,
        })?;
        Ok(Compared {
            config,
            board,
            past,
            facts,
            settings,
            campaign,
            settings_watch,
            stream,
            stream_ends,
            verdict,
            wal,
        })
    }
}

/// End of the log, and the position of a primary that continues it.
struct LogEnd {
    end: Lsn,
    position: PrimaryPosition,
    fork: Option<TimelineFork>,
    /// The primary's slot stands at the end of the log.
    acknowledged: bool,
}

/// A finished comparison.
struct Compared<'a> {
    config: &'a RunConfig,
    board: &'a StatusBoard,
    past: &'a RetryPolicy,
    facts: PrimaryFacts,
    settings: PrimarySettings,
    campaign: Campaign,
    settings_watch: SettingsWatch,
    stream: WalStream,
    /// The stream is of an older timeline, which ends where the log does.
    stream_ends: bool,
    verdict: Verdict,
    wal: WalBuffer,
}

/// Second stage: a quorum granted the term, and no safekeeper was told to follow yet.
struct Elected<'a> {
    connected: Connected<'a>,
    election: Election,
}

impl<'a> Elected<'a> {
    /// Verifies that the primary has the same bytes as the end of the log. A server that was rolled back or cloned has other
    /// bytes there, and would overwrite WAL that may be committed.
    async fn compare(self) -> Result<Streaming<'a>, LeadershipEnd> {
        let Self { mut connected, election } = self;
        connected.board.enter(LeadershipState::Checking);
        let log = connected.check(election.start, election.tli).await?;
        let LogEnd { end, position, .. } = log;

        let mut range = ComparedRange::of_election(&election, connected.primary.facts.segment_size);
        if connected.skips_comparison(&log) {
            tracing::warn!(%end, "skipping the comparison of WAL: the primary has removed WAL that was acknowledged to it");
            range.from = end;
        }
        let Compared {
            config,
            board,
            mut campaign,
            settings_watch,
            mut stream,
            stream_ends,
            verdict,
            wal,
            ..
        } = connected.compare(range, &log).await?;
        match verdict {
            Verdict::SameBytes => {}
            Verdict::OtherBytes => return Err(other_bytes(range)),
            Verdict::NotHeld => {
                return Err(LeadershipEnd::NotCompared(
                    "the safekeeper with the newest log no longer holds all of the range",
                ));
            }
        }
        if stream_ends {
            stream = stream.next_timeline(&config.slot, end, position.tli).await?;
        }

        campaign.approve(wal);
        board.enter(LeadershipState::Streaming);
        board.update(|snapshot| snapshot.refusal = None);
        Ok(Streaming::new(board, campaign, stream, settings_watch))
    }
}

const fn other_bytes(ComparedRange { donor, from, to }: ComparedRange) -> LeadershipEnd {
    LeadershipEnd::OtherBytes { donor, from, to }
}
