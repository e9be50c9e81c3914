//! [`Campaign`]: the [`Proposer`] with its connections. The task that owns it calls [`Campaign::next`] in a loop, or, while
//! WAL streams, polls it in turns.
//!
//! One turn reads the answers that have arrived on all connections, steps the proposer for each, and writes what the
//! proposer then has for each safekeeper straight to its socket. The campaign also gives lagging safekeepers WAL from
//! donors, and sends heartbeats. It decides nothing about the primary: an [`Action`] that needs such a decision is returned
//! to `leadership` or `recover`. It never waits for a single safekeeper: a link that is full is left alone until its socket
//! has taken something. Dialling and reading from donors are tasks of their own.

mod configuration_changes;
mod connections;
mod follower;
mod requested_change;
mod timers;
mod write_progress;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use consensus::{Action, CampaignPhase, LostTerm, Primary, Proposer, ProposerOptions, WalBuffer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use utils::{FlaggedTask, WakeFlag};
use wal_types::{Generation, Lsn, NodeId, ProposerId};

use self::follower::Follower;
use self::requested_change::RequestedChange;
use self::timers::KeptTimer;
pub(crate) use self::timers::{election_timeout, sleep_until_due};
use self::write_progress::known_record_end;
use crate::config::Cluster;
use crate::safekeeper_dialer::Dialed;
use crate::status::StatusBoard;

/// Events of all dialers that may wait for the campaign.
const DIAL_EVENTS_MAX: usize = 64;
/// Interval at which timeouts are checked and the status is published.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// A follower receives a message at least this often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the check that the WAL that lagging safekeepers need is still available.
const STUCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after the newest commit, after which followers that got no append since are sent an empty one with its position.
const COMMIT_TELL_DELAY: Duration = Duration::from_millis(5);
/// The connection to a safekeeper that leaves a message unanswered for this long is closed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a campaign which ends waits for its followers to learn the last commit position.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);

/// One attempt to lead: a proposer and its safekeepers.
#[derive(Debug)]
pub(crate) struct Campaign {
    proposer: Proposer,
    proposer_id: ProposerId,
    cluster: Arc<Cluster>,
    board: StatusBoard,
    followers: BTreeMap<NodeId, Follower>,
    /// Each source is polled only when it has woken the task itself.
    task: FlaggedTask,
    events_flag: WakeFlag,
    timers_flag: WakeFlag,
    events: mpsc::Receiver<Dialed>,
    events_sender: mpsc::Sender<Dialed>,
    actions: VecDeque<Action>,
    tick: Interval,
    heartbeat_at: Instant,
    stuck_check_at: Instant,
    is_stuck: bool,
    commit_tell: KeptTimer,
    /// True when members that the command line does not list are connected to. False in a recovery: its safekeepers may be
    /// copies made for inspection, and the members in their configuration are then the live originals.
    dials_unlisted_members: bool,
    /// Newest generation that is decided under this term.
    decided_generation: Option<Generation>,
    requested_change: Option<RequestedChange>,
    primary: Option<Primary>,
    connections_opened: u64,
    dialers_started: u64,
    /// Aborted when the campaign is dropped.
    dialers: JoinSet<()>,
}

impl Campaign {
    /// Begins to connect to all safekeepers of `cluster`.
    pub(crate) fn start(cluster: &Arc<Cluster>, options: ProposerOptions, board: &StatusBoard) -> Self {
        let (events_sender, events) = mpsc::channel(DIAL_EVENTS_MAX);
        let now = Instant::now();
        let task = FlaggedTask::new();
        let mut tick = interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut campaign = Self {
            dials_unlisted_members: options.tli.is_some(),
            decided_generation: None,
            requested_change: None,
            primary: options.primary,
            proposer_id: options.proposer_id,
            proposer: Proposer::new(options),
            cluster: Arc::clone(cluster),
            board: board.clone(),
            followers: BTreeMap::new(),
            events_flag: task.flag(),
            timers_flag: task.flag(),
            task,
            events,
            events_sender,
            actions: VecDeque::new(),
            tick,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            stuck_check_at: now + STUCK_CHECK_INTERVAL,
            is_stuck: false,
            commit_tell: KeptTimer::new(),
            connections_opened: 0,
            dialers_started: 0,
            dialers: JoinSet::new(),
        };
        for address in &cluster.safekeepers {
            campaign.dial(address.clone());
        }
        campaign
    }

    /// Waits for the next action. Resets are carried out here and never returned. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Action, LostTerm> {
        loop {
            if let Some(action) = self.pop_action() {
                return Ok(action);
            }
            self.step().await?;
        }
    }

    /// The next action, if there is one already.
    pub(crate) fn pop_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Waits until something has arrived or is due, handles it, and sends what follows. Cancel-safe.
    pub(crate) async fn step(&mut self) -> Result<(), LostTerm> {
        poll_fn(|cx| {
            let arrived = self.poll_arrivals(cx)?;
            let more = self.send_due_messages(cx);
            if arrived || more { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Handles everything that has arrived from safekeepers and dialers, and what is due. False when that was nothing. The
    /// task is woken by what comes next. Sending is left to [`Campaign::send_due_messages`].
    pub(crate) fn poll_arrivals(&mut self, cx: &mut Context<'_>) -> Result<bool, LostTerm> {
        self.task.set(cx);
        let any = self.poll_dialers() | self.poll_answers()? | self.poll_timers();
        if any {
            self.advance_change();
        }
        Ok(any)
    }

    /// Does what is due. False when that was nothing.
    fn poll_timers(&mut self) -> bool {
        if !self.timers_flag.take() {
            return false;
        }
        let waker = self.timers_flag.waker().clone();
        let cx = &mut Context::from_waker(&waker);

        let mut any = false;
        if self.commit_tell.poll_due(cx).is_ready() {
            self.proposer.announce_commit();
            any = true;
        }
        while self.tick.poll_tick(cx).is_ready() {
            self.handle_tick();
            any = true;
        }
        any
    }

    /// Spends a term. See [`Proposer::request_votes`].
    pub(crate) fn request_votes(&mut self) -> Result<(), LostTerm> {
        self.proposer.request_votes()?;
        self.publish_status();
        Ok(())
    }

    /// Begins to lead. See [`Proposer::approve`].
    pub(crate) fn approve(&mut self, wal: WalBuffer) {
        self.proposer.approve(wal);
        self.publish_status();
    }

    /// Adds WAL of the primary. False when it does not continue the log. See [`Proposer::append`].
    #[must_use]
    pub(crate) fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        self.proposer.append(at, wal)
    }

    /// Requests a checksum of a safekeeper's log. See [`Proposer::request_checksum`].
    pub(crate) fn request_checksum(&mut self, node: NodeId, from: Lsn, to: Lsn) {
        self.proposer.request_checksum(node, from, to);
    }

    /// Sends the followers the last commit position. Returns when each has answered or [`FINISH_TIMEOUT`] is over.
    pub(crate) async fn finish(mut self) {
        self.proposer.announce_commit();
        let announced = async {
            poll_fn(|cx| Poll::Ready(self.send_due_messages(cx))).await;
            while self.followers.values().any(Follower::has_unsent) {
                self.step().await?;
            }

            // Bytes that the socket took may still be lost when it is closed. An answer proves that they were not.
            let mut waiting: Vec<_> = self.unanswered().collect();
            while !waiting.is_empty() {
                self.step().await?;
                waiting.retain(|(node, since)| {
                    self.followers.get(node).and_then(Follower::unanswered_since) == Some(*since)
                });
            }
            Ok::<_, LostTerm>(())
        };

        // Best effort: the next election settles what a follower did not learn.
        let _ = timeout(FINISH_TIMEOUT, announced).await;
        self.publish_status();
    }

    /// True when too many followers lack WAL that no connected safekeeper has. See [`Proposer::is_stuck`].
    pub(crate) const fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// The proposer, to read from.
    pub(crate) const fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// The primary whose WAL this campaign writes; `None` when it has no name.
    pub(crate) const fn primary(&self) -> Option<Primary> {
        self.primary
    }

    /// Incarnation of the connection to `node`, if there is one: a number that every new connection gets. A later call that
    /// returns another number means that the connection was replaced.
    pub(crate) fn incarnation(&self, node: NodeId) -> Option<u64> {
        Some(self.followers.get(&node)?.connection.as_ref()?.incarnation)
    }

    /// Safekeepers that have not answered the newest message yet, and since when.
    fn unanswered(&self) -> impl Iterator<Item = (NodeId, Instant)> {
        self.followers.iter().filter_map(|(&node, follower)| Some((node, follower.unanswered_since()?)))
    }

    fn handle_tick(&mut self) {
        let now = Instant::now();
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            self.proposer.heartbeat();
        }
        if now >= self.stuck_check_at {
            self.stuck_check_at = now + STUCK_CHECK_INTERVAL;
            self.is_stuck = self.proposer.is_stuck();
        }

        self.close_silent_connections(now);
        self.remove_non_members();
        self.observe_writes(now);
        self.publish_status();
    }

    fn close_silent_connections(&mut self, now: Instant) {
        let silent: Vec<NodeId> = self
            .unanswered()
            .filter(|(_, since)| now.duration_since(*since) > ANSWER_TIMEOUT)
            .map(|(node, _)| node)
            .collect();
        for node in silent {
            self.reset_connection(node, &format!("no answer for {} s", ANSWER_TIMEOUT.as_secs()));
        }

        let failed = |(&node, follower): (&NodeId, &Follower)| {
            let link = &follower.connection.as_ref()?.link;
            Some((node, link.check_write_timeout(now).err()?))
        };
        let failed: Vec<_> = self.followers.iter().filter_map(failed).collect();
        for (node, error) in failed {
            self.connection_ended(node, &error);
        }
    }

    /// Notices safekeepers that answer and write nothing.
    fn observe_writes(&mut self, now: Instant) {
        let peers = self.proposer.status();
        let known_end = known_record_end(&peers, self.proposer.received_lsn());
        for peer in &peers {
            if let Some(follower) = self.followers.get_mut(&peer.id) {
                follower.writes.observe(peer, known_end, now);
            }
        }
    }

    fn publish_status(&self) {
        let views = self.proposer.status().into_iter().filter_map(|peer| {
            let follower = self.followers.get(&peer.id)?;
            Some(follower.view(&peer, self.proposer.phase()))
        });
        let safekeepers = views.collect();
        let proposer = &self.proposer;

        self.board.update(|snapshot| {
            snapshot.safekeepers = safekeepers;
            snapshot.configuration = self.configuration_view();
            if let Some(requested) = &self.requested_change {
                snapshot.change = Some(requested.view.clone());
            }
            snapshot.proposer_id = Some(self.proposer_id);
            snapshot.term = matches!(
                proposer.phase(),
                CampaignPhase::Voting | CampaignPhase::Elected | CampaignPhase::Leading
            )
            .then(|| proposer.term());
            snapshot.term_start_lsn = proposer.election().map_or(Lsn::INVALID, |election| election.start);
            snapshot.commit_lsn = proposer.commit_lsn();
        });
    }
}

#[cfg(test)]
mod tests;
