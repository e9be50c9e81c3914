//! [`Campaign`]: the [`Proposer`] with its connections. The task that owns it calls [`Campaign::next`] in a loop.
//!
//! The campaign passes the links' messages to the proposer, and the proposer's messages to the queue of each link, as far
//! as it has room. It reads WAL for lagging safekeepers from donors, and sends heartbeats. It decides nothing about the
//! primary: an [`Action`] that needs such a decision is returned to `leadership` or `recover`. It never waits for a single
//! safekeeper: a full queue is left alone until its link reports room.

mod configuration_changes;
mod connections;
mod follower;
mod requested_change;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Action, CampaignPhase, LostTerm, Proposer, ProposerOptions, WalBuffer};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use wal_types::{Generation, Lsn, NodeId, PrimaryId, ProposerId};

use self::follower::Follower;
use self::requested_change::RequestedChange;
pub(crate) use self::timers::{election_timeout, sleep_until_due};
use crate::config::Cluster;
use crate::safekeeper_link::{CampaignHandle, Envelope};
use crate::status::StatusBoard;

/// Events of all links that may wait for the campaign.
const LINK_EVENTS_MAX: usize = 256;
/// Interval at which timeouts are checked and the status is published.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// A follower receives a message at least this often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after which followers that got no append since a commit are sent an empty one with the commit position.
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
    events: mpsc::Receiver<Envelope>,
    wake: Arc<Notify>,
    actions: VecDeque<Action>,
    tick: Interval,
    heartbeat_at: Instant,
    announce_commit_at: Option<Instant>,
    /// True when members that the command line does not list are connected to. False in a recovery: its safekeepers may be
    /// copies made for inspection, and the members in their configuration are then the live originals.
    dials_unlisted_members: bool,
    /// Newest generation that is decided under this term.
    decided_generation: Option<Generation>,
    requested_change: Option<RequestedChange>,
    primary: Option<PrimaryId>,
    handle: CampaignHandle,
    /// Aborted, and their connections closed, when the campaign is dropped.
    links: JoinSet<()>,
}

impl Campaign {
    /// Begins to connect to all safekeepers of `cluster`.
    pub(crate) fn start(cluster: &Arc<Cluster>, options: ProposerOptions, board: &StatusBoard) -> Self {
        let (sender, events) = mpsc::channel(LINK_EVENTS_MAX);
        let wake = Arc::new(Notify::new());
        let incarnations = Arc::new(AtomicU64::new(1));
        let handle = CampaignHandle { events: sender, wake: Arc::clone(&wake), incarnations };
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
            events,
            wake,
            actions: VecDeque::new(),
            tick,
            heartbeat_at: Instant::now() + HEARTBEAT_INTERVAL,
            announce_commit_at: None,
            handle,
            links: JoinSet::new(),
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

    /// Sends what is due, waits for one event and handles it. Cancel-safe.
    pub(crate) async fn step(&mut self) -> Result<(), LostTerm> {
        self.send_due_messages();

        // Every arm may be cancelled: an event stays in its channel, a notification and a due time stay due.
        tokio::select! {
            event = self.events.recv() => if let Some(event) = event { self.handle_link_event(event)? },
            () = self.wake.notified() => {}
            () = sleep_until_due(self.announce_commit_at) => {
                self.announce_commit_at = None;
                self.proposer.announce_commit();
            }
            _ = self.tick.tick() => self.handle_tick(),
        }

        self.advance_change();
        Ok(())
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
            self.send_due_messages();
            while self.followers.values().any(Follower::has_unsent) {
                if self.step().await.is_err() {
                    return;
                }
            }

            // An empty queue does not prove that its last message was sent. An answer does.
            let mut waiting: Vec<NodeId> = self.unanswered().collect();
            while !waiting.is_empty() {
                let Some(envelope) = self.events.recv().await else { return };
                waiting.retain(|&waits| waits != envelope.node);
                if self.handle_link_event(envelope).is_err() {
                    return;
                }
            }
        };

        // Best effort: the next election settles what a follower did not learn.
        let _ = timeout(FINISH_TIMEOUT, announced).await;
        self.publish_status();
    }

    /// The proposer, to read from.
    pub(crate) const fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// The primary whose WAL this campaign writes; `None` when it has no name.
    pub(crate) const fn primary(&self) -> Option<PrimaryId> {
        self.primary
    }

    /// Incarnation of the connection to `node`, if there is one: a number that every new connection gets. A later call that
    /// returns another number means that the connection was replaced.
    pub(crate) fn incarnation(&self, node: NodeId) -> Option<u64> {
        Some(self.followers.get(&node)?.connection.as_ref()?.incarnation)
    }

    /// Safekeepers that have not answered the newest message yet.
    fn unanswered(&self) -> impl Iterator<Item = NodeId> {
        let waits = |follower: &&Follower| follower.unanswered_since().is_some();
        self.followers.values().filter(waits).map(|follower| follower.address.id)
    }

    fn handle_tick(&mut self) {
        let now = Instant::now();
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            self.proposer.heartbeat();
        }

        let since = |node: &NodeId| self.followers.get(node).and_then(Follower::unanswered_since);
        let silent: Vec<NodeId> = self
            .unanswered()
            .filter(|node| since(node).is_some_and(|since| now.duration_since(since) > ANSWER_TIMEOUT))
            .collect();
        for node in silent {
            self.reset_connection(node, &format!("no answer for {} s", ANSWER_TIMEOUT.as_secs()));
        }

        self.remove_non_members();
        self.publish_status();
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
