//! [`Campaign`]: the [`Proposer`] with its connections. The one task that owns it calls [`Campaign::next`] in a loop.
//!
//! Messages of the links go in, what the proposer wants to send goes out as fast as each queue has room, donors are read
//! for safekeepers that lag, heartbeats fall due. What needs a decision comes back as an [`Action`]; `cycle` and
//! `recover` decide. Nothing here waits for a single safekeeper: a full queue is left alone until its link says that
//! there is room.

mod configuration_changes;
mod follower;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use consensus::{AcceptorMessage, Action, CampaignPhase, LostTerm, Proposer, ProposerOptions, WalBuffer};
use rand::{Rng, RngExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use wal_types::{Generation, Lsn, NodeId, PrimaryId, ProposerId};

use self::configuration_changes::Asked;
use self::follower::{Connection, Donors, Follower, Trouble};
use crate::config::{Cluster, SafekeeperAddress};
use crate::configuration_change::FOLLOWERS_MAX;
use crate::safekeeper_link::{self, DriverHandle, Envelope, LinkEvent};
use crate::status::StatusBoard;

/// Events of all links that may wait for the driver.
const LINK_EVENTS_MAX: usize = 256;
/// How often due times are looked at and the status is written.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// A follower hears from us at least this often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// When no append went out after a commit, followers are told of it after this long.
const COMMIT_TELL_DELAY: Duration = Duration::from_millis(5);
/// A safekeeper that leaves a message unanswered for this long is dropped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Votes are a message and a sync each. A term that was asked for in vain costs nothing but another one.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_secs(5);
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// The longest that a campaign's end is held up by followers that still have to hear of the last commit.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// A proposer and its safekeepers.
#[derive(Debug)]
pub(crate) struct Campaign {
    proposer: Proposer,
    proposer_id: ProposerId,
    cluster: Arc<Cluster>,
    board: StatusBoard,
    followers: BTreeMap<NodeId, Follower>,
    events: mpsc::Receiver<Envelope>,
    wake: Arc<Notify>,
    ready: VecDeque<Action>,
    tick: Interval,
    heartbeat_at: Instant,
    tell_commit_at: Option<Instant>,
    /// A recovery talks to those that it was given and to no others: they may be copies, made to be looked at.
    dials_members: bool,
    /// Newest generation that is decided under this term.
    decided: Option<Generation>,
    asked: Option<Asked>,
    primary: Option<PrimaryId>,
    driver: DriverHandle,
    /// Aborted, and their connections closed, when the campaign is dropped.
    links: JoinSet<()>,
}

impl Campaign {
    /// Begins to dial all safekeepers of `cluster`.
    pub(crate) fn start(cluster: &Arc<Cluster>, options: ProposerOptions, board: &StatusBoard) -> Self {
        let (sender, events) = mpsc::channel(LINK_EVENTS_MAX);
        let wake = Arc::new(Notify::new());
        let incarnations = Arc::new(AtomicU64::new(1));
        let driver = DriverHandle { events: sender, wake: Arc::clone(&wake), incarnations };
        let mut tick = interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut campaign = Self {
            dials_members: options.tli.is_some(),
            decided: None,
            asked: None,
            primary: options.primary,
            proposer_id: options.proposer_id,
            proposer: Proposer::new(options),
            cluster: Arc::clone(cluster),
            board: board.clone(),
            followers: BTreeMap::new(),
            events,
            wake,
            ready: VecDeque::new(),
            tick,
            heartbeat_at: Instant::now() + HEARTBEAT_INTERVAL,
            tell_commit_at: None,
            driver,
            links: JoinSet::new(),
        };
        for address in &cluster.safekeepers {
            campaign.dial(address.clone());
        }
        campaign
    }

    /// What to decide next; resets are carry_over out here and never returned. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Action, LostTerm> {
        loop {
            if let Some(action) = self.take_action() {
                return Ok(action);
            }
            self.changed().await?;
        }
    }

    /// What to decide next, if there is anything.
    pub(crate) fn take_action(&mut self) -> Option<Action> {
        self.ready.pop_front()
    }

    /// Waits for one thing to happen, and acts on it. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Result<(), LostTerm> {
        self.send_what_is_due();
        // Every arm may be dropped: an event stays in its channel, a notification and a due time stay due.
        tokio::select! {
            event = self.events.recv() => if let Some(event) = event { self.take(event)? },
            () = self.wake.notified() => {}
            () = due(self.tell_commit_at) => {
                self.tell_commit_at = None;
                self.proposer.announce_commit();
            }
            _ = self.tick.tick() => self.ticked(),
        }
        self.advance_change();
        Ok(())
    }

    /// Spends a term. See [`Proposer::campaign`].
    pub(crate) fn campaign(&mut self) -> Result<(), LostTerm> {
        self.proposer.request_votes()?;
        self.publish();
        Ok(())
    }

    /// Begins to lead. See [`Proposer::approve`].
    pub(crate) fn approve(&mut self, wal: WalBuffer) {
        self.proposer.approve(wal);
        self.publish();
    }

    /// See [`Proposer::append`].
    #[must_use]
    pub(crate) fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        self.proposer.append(at, wal)
    }

    /// See [`Proposer::request_checksum`].
    pub(crate) fn ask_checksum(&mut self, node: NodeId, from: Lsn, to: Lsn) {
        self.proposer.request_checksum(node, from, to);
    }

    /// Tells the followers the last commit position, and returns when each has taken it or the time is up.
    pub(crate) async fn farewell(mut self) {
        self.proposer.announce_commit();
        let told = async {
            self.send_what_is_due();
            while self.followers.values().any(Follower::has_unsent) {
                if self.changed().await.is_err() {
                    return;
                }
            }
            // What a link has taken out of its queue is on the wire only when an answer has come.
            let mut waiting: Vec<NodeId> = self.unanswered().collect();
            while !waiting.is_empty() {
                let Some(envelope) = self.events.recv().await else { return };
                waiting.retain(|&waits| waits != envelope.node);
                if self.take(envelope).is_err() {
                    return;
                }
            }
        };
        // Best effort: the next election settles what was not told.
        let _ = timeout(FAREWELL_TIMEOUT, told).await;
        self.publish();
    }

    /// What can be read of the proposer.
    pub(crate) const fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// The primary whose WAL this is, where logs are given to primaries.
    pub(crate) const fn primary(&self) -> Option<PrimaryId> {
        self.primary
    }

    /// Names the connection to `node`, if there is one: another value later means that it was another connection.
    pub(crate) fn incarnation(&self, node: NodeId) -> Option<u64> {
        Some(self.followers.get(&node)?.connection.as_ref()?.incarnation)
    }

    fn unanswered(&self) -> impl Iterator<Item = NodeId> {
        let waits = |follower: &&Follower| follower.unanswered_since().is_some();
        self.followers.values().filter(waits).map(|follower| follower.address.id)
    }

    fn take(&mut self, envelope: Envelope) -> Result<(), LostTerm> {
        let Envelope { node, incarnation, event } = envelope;
        let Some(follower) = self.followers.get_mut(&node) else { return Ok(()) };
        let is_current =
            follower.connection.as_ref().is_some_and(|connection| connection.incarnation == incarnation);
        match event {
            LinkEvent::Connecting => follower.connecting = true,
            LinkEvent::Connected(queue) => {
                follower.connection = Some(Connection { incarnation, queue, unanswered_since: None });
                self.proposer.connected(node);
            }
            LinkEvent::Message(message) if is_current => return self.receive(node, message),
            // Of a connection that was given up.
            LinkEvent::Message(_) => {}
            LinkEvent::Disconnected(reason) => {
                follower.connecting = false;
                if let Some(reason) = reason {
                    // What ended a conversation is remembered until another one has come as far as following: a
                    // safekeeper that refuses is connected to again and again, and is greeted each time.
                    follower.trouble = Some(Trouble { reason, until_it_follows: is_current });
                }
                if is_current {
                    self.drop_connection(node);
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, node: NodeId, message: AcceptorMessage) -> Result<(), LostTerm> {
        // A wrong address would let one safekeeper vote for two, and what is on one disk would be a majority's.
        if let AcceptorMessage::Greeting(greeting) = &message
            && greeting.node_id != node
        {
            self.give_up(node, &format!("its address is wrong: it is safekeeper {}", greeting.node_id));
            return Ok(());
        }
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.answered(matches!(message, AcceptorMessage::Append(_)));
        }
        for action in self.proposer.receive(node, message)? {
            match action {
                Action::Reset(node) => {
                    self.give_up(node, "it sent an answer that does not fit what it was asked")
                }
                Action::Committed(_) => {
                    self.tell_commit_at.get_or_insert(Instant::now() + COMMIT_TELL_DELAY);
                    self.ready.push_back(action);
                }
                Action::Configured(configuration) => {
                    self.configuration_decided(&configuration);
                    self.publish();
                    self.ready.push_back(Action::Configured(configuration));
                }
                Action::PreVoted { .. } | Action::Elected(_) | Action::Checksum { .. } => {
                    self.ready.push_back(action);
                }
            }
        }
        if self.dials_members {
            self.dial_unknown_members();
        }
        Ok(())
    }

    /// Members that were not in our flags, but are in what the safekeepers hold.
    fn dial_unknown_members(&mut self) {
        for member in self.proposer.unknown_members() {
            if self.followers.len() >= FOLLOWERS_MAX {
                return;
            }
            let address = configuration_changes::address_of(&member);
            tracing::info!(safekeeper = %address.id, %address, "a member that was not listed: connecting");
            self.dial(address);
        }
    }

    /// Begins to talk to a safekeeper, unless it is talked to.
    fn dial(&mut self, address: SafekeeperAddress) {
        if self.followers.contains_key(&address.id) {
            return;
        }
        if self.cluster.safekeepers.iter().all(|known| known.id != address.id) {
            Arc::make_mut(&mut self.cluster).safekeepers.push(address.clone());
        }
        self.proposer.add_peer(address.id);
        let running = safekeeper_link::run(Arc::clone(&self.cluster), address.clone(), self.driver.clone());
        let link = self.links.spawn(running);
        self.followers.insert(address.id, Follower::new(address, link));
    }

    /// Closes the connection for good.
    fn release(&mut self, node: NodeId) {
        self.drop_connection(node);
        if let Some(follower) = self.followers.remove(&node) {
            follower.link.abort();
        }
        Arc::make_mut(&mut self.cluster).safekeepers.retain(|known| known.id != node);
        while self.links.try_join_next().is_some() {}
    }

    /// Closes the connection; its link opens a new one.
    fn give_up(&mut self, node: NodeId, reason: &str) {
        tracing::warn!(safekeeper = %node, reason, "connection given up");
        self.drop_connection(node);
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.trouble = Some(Trouble { reason: reason.to_owned(), until_it_follows: true });
        }
    }

    fn drop_connection(&mut self, node: NodeId) {
        self.proposer.disconnected(node);
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.connection = None;
            follower.donor_stream = None;
        }
    }

    /// Gives each link what its queue has room for.
    pub(crate) fn send_what_is_due(&mut self) {
        for (&node, follower) in &mut self.followers {
            while let Some(connection) = &mut follower.connection {
                // A closed queue belongs to a connection whose end is about to be told.
                let Ok(room) = connection.queue.try_reserve() else { break };
                if let Some(message) = self.proposer.poll_send(node) {
                    room.send(message);
                    connection.unanswered_since.get_or_insert_with(Instant::now);
                    continue;
                }
                drop(room);
                let donors = Donors { cluster: &self.cluster, wake: &self.wake };
                if !follower.advance_catch_up(node, &mut self.proposer, &donors) {
                    break;
                }
            }
        }
    }

    fn ticked(&mut self) {
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
            self.give_up(node, "no answer for 10 s");
        }
        self.release_strangers();
        self.publish();
    }

    fn publish(&self) {
        let views = self.proposer.status().into_iter().filter_map(|peer| {
            let follower = self.followers.get(&peer.id)?;
            Some(follower.view(&peer, self.proposer.phase()))
        });
        let safekeepers = views.collect();
        let proposer = &self.proposer;
        self.board.update(|snapshot| {
            snapshot.safekeepers = safekeepers;
            snapshot.configuration = self.configuration_view();
            if let Some(asked) = &self.asked {
                snapshot.change = Some(asked.view.clone());
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

/// How long votes are waited for. Two candidates may have split them, and each go on waiting for the vote of somebody
/// who is gone; at random, so that they don't come back together.
pub(crate) fn election_timeout(random: &mut impl Rng) -> Duration {
    random.random_range(ELECTION_TIMEOUT_MIN..=ELECTION_TIMEOUT_MAX)
}

/// Completes at a time, or never.
pub(crate) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
