//! [`Follower`]: the campaign's side of one safekeeper: its dialer, its connection, and the WAL that it is given from a
//! donor.
//!
//! The protocol state of the safekeeper is not here: the [`Proposer`] holds it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{AcceptorMessage, CampaignPhase, PeerState, PeerStatus, Proposer};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use utils::WakeFlag;

use super::write_progress::WriteProgress;
use crate::config::{Cluster, SafekeeperAddress};
use crate::donor_stream::{DonorFailure, DonorStream, WalRange};
use crate::safekeeper_dialer::OpenLink;
use crate::safekeeper_link::{LinkError, SafekeeperLink};
use crate::status::{LinkState, SafekeeperView};

/// Pause after a donor failed.
const DONOR_RETRY_DELAY: Duration = Duration::from_millis(500);

const LOG_BEGINS_TOO_HIGH: &str = "this safekeeper's log is new and begins above what the others hold: it waits until \
     they hold everything below; if they never will, replace it by a safekeeper with a new number, whose start_lsn is \
     their highest oldest_lsn";
const HAS_NO_MEMBERS: &str = "this safekeeper's copy of the log has no members yet and grants no vote: finish its creation with \
     PUT .../bootstrap on it";
const LOST: &str =
    "this safekeeper has lost WAL that it acknowledged: it does not vote until a leader has repaired it";
const NEEDS_RESEED: &str = "this safekeeper must be re-seeded: its log has no common point with the leader's, or no other \
     safekeeper holds the WAL that it lacks; replace it, see \"A member is away for long\" in docs/operations.md";

/// The campaign's side of one safekeeper.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) address: SafekeeperAddress,
    /// Number of the dialer.
    pub(super) dialer: u64,
    /// The task that opens the connections.
    pub(super) dialer_task: AbortHandle,
    pub(super) connecting: bool,
    pub(super) connection: Option<Connection>,
    pub(super) donor_stream: Option<DonorStream>,
    donor_retry_at: Option<Instant>,
    pub(super) problem: Option<FollowerProblem>,
    /// Whether it writes what it is sent.
    pub(super) writes: WriteProgress,
}

/// The last problem with a safekeeper, for the status.
#[derive(Debug)]
pub(super) struct FollowerProblem {
    pub(super) reason: String,
    /// True: shown until the safekeeper follows. False: shown until its next answer.
    pub(super) until_streaming: bool,
}

/// An open connection to a safekeeper.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) incarnation: u64,
    pub(super) link: SafekeeperLink,
    /// Set when the socket has something, or takes something.
    woken: WakeFlag,
    /// When the oldest message that may still be unanswered was encoded.
    pub(super) unanswered_since: Option<Instant>,
    /// Its drop makes the dialer open the next connection.
    _kept: oneshot::Sender<Infallible>,
}

impl Connection {
    /// A connection on which nothing was said yet.
    pub(super) fn new(incarnation: u64, open: OpenLink, woken: WakeFlag) -> Self {
        Self { incarnation, link: open.link, woken, unanswered_since: None, _kept: open.kept }
    }
}

impl Follower {
    /// A safekeeper that is not connected yet.
    pub(super) fn new(address: SafekeeperAddress, dialer: u64, dialer_task: AbortHandle) -> Self {
        Self {
            address,
            dialer,
            dialer_task,
            connecting: false,
            connection: None,
            donor_stream: None,
            donor_retry_at: None,
            problem: None,
            writes: WriteProgress::default(),
        }
    }

    /// Time at which the oldest message that may still be unanswered was encoded.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.connection.as_ref()?.unanswered_since
    }

    /// True while bytes wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.link.has_unsent())
    }

    /// True when the connection has woken the task: its answers are then polled until there is none.
    pub(super) fn take_woken(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.woken.take())
    }

    /// The next answer when it has arrived, or the error that ends the connection.
    pub(super) fn poll_answer(&mut self) -> Option<Poll<Result<AcceptorMessage, LinkError>>> {
        let Connection { link, woken, .. } = self.connection.as_mut()?;
        Some(link.poll_answer(&mut Context::from_waker(woken.waker())))
    }

    /// Encodes what is due for the safekeeper while its link has room, and writes it. True when the link was full and has
    /// room again: there may be more. An error ends the connection.
    pub(super) fn send_due(
        &mut self,
        cx: &mut Context<'_>,
        proposer: &mut Proposer,
        cluster: &Arc<Cluster>,
    ) -> Result<bool, LinkError> {
        let node = self.address.id;
        let was_full = loop {
            let Some(connection) = &mut self.connection else { return Ok(false) };
            if !connection.link.has_room() {
                break true;
            }
            if let Some(message) = proposer.poll_send(node) {
                connection.link.encode(&message)?;
                connection.unanswered_since.get_or_insert_with(Instant::now);
            } else if !self.advance_catch_up(cx, proposer, cluster) {
                break false;
            }
        };

        let Some(connection) = &mut self.connection else { return Ok(false) };
        if connection.link.has_unsent() {
            connection.link.write(&mut Context::from_waker(connection.woken.waker()))?;
        }
        Ok(was_full && connection.link.has_room())
    }

    /// Records that the safekeeper answered; `follows` when the answer was to an append.
    pub(super) fn record_answer(&mut self, follows: bool) {
        self.problem = self.problem.take().filter(|problem| problem.until_streaming && !follows);
        if let Some(connection) = &mut self.connection {
            connection.unanswered_since = None;
        }
    }

    /// Passes one piece of a donor's WAL to the proposer, or begins to read from a donor. True when it is worth to ask the
    /// proposer again; else the task is woken by the next piece.
    fn advance_catch_up(
        &mut self,
        cx: &mut Context<'_>,
        proposer: &mut Proposer,
        cluster: &Arc<Cluster>,
    ) -> bool {
        let node = self.address.id;
        let Some(fetch) = proposer.poll_fetch(node) else {
            self.donor_stream = None;
            return false;
        };

        let Some(donor_stream) = &mut self.donor_stream else {
            if self.donor_retry_at.is_some_and(|at| Instant::now() < at) {
                return false;
            }
            let donor = cluster.safekeepers.iter().find(|address| address.id == fetch.donor);
            let range = WalRange { from: fetch.from, until: fetch.until, term: proposer.term() };
            tracing::info!(safekeeper = %node, donor = %fetch.donor, from = %fetch.from, until = %fetch.until, "catching up from a donor");
            self.donor_stream =
                donor.map(|donor| DonorStream::start(Arc::clone(cluster), donor.clone(), range));
            return self.donor_stream.is_some();
        };

        match donor_stream.pieces.poll_recv(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok((at, wal)))) => {
                // Bytes that do not continue the follower's stream were read for an earlier position: read again.
                if !proposer.fetched(node, donor_stream.donor, at, &wal) {
                    self.donor_stream = None;
                }
            }
            Poll::Ready(Some(Err(DonorFailure { reason, removed }))) => {
                tracing::warn!(safekeeper = %node, reason, "cannot read WAL from a donor");
                self.problem = Some(FollowerProblem { reason, until_streaming: false });
                if removed {
                    proposer.donor_removed(donor_stream.donor, fetch.from);
                }
                proposer.donor_failed(node, donor_stream.donor);
                self.donor_stream = None;
                self.donor_retry_at = Some(Instant::now() + DONOR_RETRY_DELAY);
            }
            Poll::Ready(None) => self.donor_stream = None,
        }
        true
    }

    /// The safekeeper as the status shows it.
    pub(super) fn view(&self, peer: &PeerStatus, phase: CampaignPhase) -> SafekeeperView {
        SafekeeperView {
            address: self.address.clone(),
            state: match peer.state {
                PeerState::Offline if self.connecting => LinkState::Connecting,
                PeerState::Offline => LinkState::Offline,
                PeerState::Greeting => LinkState::Connecting,
                PeerState::Greeted | PeerState::Voting => LinkState::Greeted,
                PeerState::Foreign(_) => LinkState::Greeted,
                PeerState::Voted | PeerState::CannotFollow => LinkState::Voted,
                PeerState::Streaming { .. } if peer.catching_up => LinkState::CatchingUp,
                PeerState::Streaming { .. } => LinkState::Streaming,
            },
            flush_lsn: peer.flush_lsn,
            commit_lsn: peer.commit_lsn,
            unanswered_since: self.unanswered_since(),
            stands_still_since: self.writes.stands_still_since(),
            needs_reseed: peer.needs_reseed,
            lost: peer.lost,
            last_error: match peer.state {
                PeerState::Foreign(why) => Some(why.to_string()),
                PeerState::Greeted if peer.unconfigured => Some(HAS_NO_MEMBERS.to_owned()),
                _ if peer.lost => Some(LOST.to_owned()),
                _ if peer.needs_reseed => Some(NEEDS_RESEED.to_owned()),
                PeerState::Voted if phase == CampaignPhase::Leading => Some(LOG_BEGINS_TOO_HIGH.to_owned()),
                _ => self.problem.as_ref().map(|problem| problem.reason.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use wal_types::{Lsn, NodeId};

    use super::*;

    /// A safekeeper that has voted but cannot follow the leader yet says what it waits for.
    #[tokio::test]
    async fn voted_follower_of_leader_explains_its_wait() {
        let address = SafekeeperAddress { id: NodeId(4), host: "sk4".to_owned(), port: 1 };
        let follower = Follower::new(address, 1, tokio::spawn(async {}).abort_handle());
        let at = Lsn(0x200_0000);
        let state = PeerState::Voted;
        let peer = PeerStatus {
            id: NodeId(4),
            state,
            flush_lsn: at,
            commit_lsn: Lsn::INVALID,
            catching_up: false,
            unconfigured: false,
            needs_reseed: false,
            lost: false,
        };
        assert_eq!(follower.view(&peer, CampaignPhase::Voting).last_error, None);
        let waits = follower.view(&peer, CampaignPhase::Leading).last_error.unwrap();
        assert!(waits.contains("oldest_lsn"), "{waits}");
    }
}
