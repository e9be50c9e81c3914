//! [`Follower`]: the campaign's side of one safekeeper: its link, its queue, and the WAL that it is given from a donor.
//!
//! The protocol state of the safekeeper is not here: the [`Proposer`] holds it.

use std::sync::Arc;
use std::time::Duration;

use consensus::{CampaignPhase, PeerState, PeerStatus, Proposer, ProposerMessage};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wal_types::NodeId;

use crate::config::{Cluster, SafekeeperAddress};
use crate::donor_stream::{DonorStream, WalRange};
use crate::status::{LinkState, SafekeeperView};

/// Pause after a donor failed.
const DONOR_RETRY_DELAY: Duration = Duration::from_millis(500);

const LOG_BEGINS_TOO_HIGH: &str = "this safekeeper's log is new and begins above what the others hold: it waits until \
     they hold everything below; if they never will, replace it by a safekeeper with a new number, whose start_lsn is \
     their highest oldest_lsn";
const CANNOT_FOLLOW: &str = "this safekeeper cannot follow: its log has no common point with the leader's, or no other \
     safekeeper holds the WAL that it lacks; replace it by a safekeeper with a new number";

/// The campaign's side of one safekeeper.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) address: SafekeeperAddress,
    /// The task that keeps the connection open.
    pub(super) link: AbortHandle,
    pub(super) connecting: bool,
    pub(super) connection: Option<Connection>,
    pub(super) donor_stream: Option<DonorStream>,
    donor_retry_at: Option<Instant>,
    pub(super) problem: Option<FollowerProblem>,
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
    /// Messages for the safekeeper. Dropping the sender closes the connection.
    pub(super) queue: mpsc::Sender<ProposerMessage>,
    pub(super) unanswered_since: Option<Instant>,
}

/// Context for reading from a donor.
pub(super) struct Donors<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) wake: &'a Arc<Notify>,
}

impl Follower {
    /// A safekeeper that is not connected yet.
    pub(super) const fn new(address: SafekeeperAddress, link: AbortHandle) -> Self {
        Self {
            address,
            link,
            connecting: false,
            connection: None,
            donor_stream: None,
            donor_retry_at: None,
            problem: None,
        }
    }

    /// Time at which the oldest message that may still be unanswered was queued.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.connection.as_ref()?.unanswered_since
    }

    /// True while messages wait in the queue of the link.
    pub(super) fn has_unsent(&self) -> bool {
        let queue = self.connection.as_ref().map(|connection| &connection.queue);
        queue.is_some_and(|queue| !queue.is_closed() && queue.capacity() < queue.max_capacity())
    }

    /// Records that the safekeeper answered; `follows` when the answer was to an append.
    pub(super) fn record_answer(&mut self, follows: bool) {
        self.problem = self.problem.take().filter(|problem| problem.until_streaming && !follows);
        if let Some(connection) = &mut self.connection {
            connection.unanswered_since = None;
        }
    }

    /// Passes one piece of a donor's WAL to the proposer, or begins to read from a donor. True when the proposer has more
    /// to send now.
    pub(super) fn advance_catch_up(
        &mut self,
        node: NodeId,
        proposer: &mut Proposer,
        donors: &Donors<'_>,
    ) -> bool {
        let Some(fetch) = proposer.poll_fetch(node) else {
            self.donor_stream = None;
            return false;
        };

        let Some(donor_stream) = &mut self.donor_stream else {
            if self.donor_retry_at.is_some_and(|at| Instant::now() < at) {
                return false;
            }
            let donor = donors.cluster.safekeepers.iter().find(|address| address.id == fetch.donor);
            let range = WalRange { from: fetch.from, until: fetch.until, term: proposer.term() };
            tracing::info!(safekeeper = %node, donor = %fetch.donor, from = %fetch.from, until = %fetch.until, "catching up from a donor");
            self.donor_stream = donor.map(|donor| {
                DonorStream::start(Arc::clone(donors.cluster), donor.clone(), range, Arc::clone(donors.wake))
            });
            return false;
        };

        match donor_stream.pieces.try_recv() {
            Ok(Ok((at, wal))) if proposer.fetched(node, donor_stream.donor, at, &wal) => return true,
            // Bytes that do not continue the follower's stream were read for an earlier position: read again.
            Ok(Ok(_)) => self.donor_stream = None,
            Ok(Err(reason)) => {
                tracing::warn!(safekeeper = %node, reason, "cannot read WAL from a donor");
                self.problem = Some(FollowerProblem { reason, until_streaming: false });
                proposer.donor_failed(node, donor_stream.donor);
                self.donor_stream = None;
                self.donor_retry_at = Some(Instant::now() + DONOR_RETRY_DELAY);
            }
            Err(mpsc::error::TryRecvError::Empty) => {}
            Err(mpsc::error::TryRecvError::Disconnected) => self.donor_stream = None,
        }
        false
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
                PeerState::Voted | PeerState::CannotFollow => LinkState::Voted,
                PeerState::Streaming { .. } if peer.catching_up => LinkState::CatchingUp,
                PeerState::Streaming { .. } => LinkState::Streaming,
            },
            flush_lsn: peer.flush_lsn,
            commit_lsn: peer.commit_lsn,
            unanswered_since: self.unanswered_since(),
            last_error: match peer.state {
                PeerState::CannotFollow => Some(CANNOT_FOLLOW.to_owned()),
                PeerState::Voted if phase == CampaignPhase::Leading => Some(LOG_BEGINS_TOO_HIGH.to_owned()),
                _ => self.problem.as_ref().map(|problem| problem.reason.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use wal_types::Lsn;

    use super::*;

    /// A safekeeper that has voted but cannot follow the leader yet says what it waits for.
    #[tokio::test]
    async fn voted_follower_of_leader_explains_its_wait() {
        let address = SafekeeperAddress { id: NodeId(4), host: "sk4".to_owned(), port: 1 };
        let follower = Follower::new(address, tokio::spawn(async {}).abort_handle());
        let at = Lsn(0x200_0000);
        let state = PeerState::Voted;
        let peer =
            PeerStatus { id: NodeId(4), state, flush_lsn: at, commit_lsn: Lsn::INVALID, catching_up: false };
        assert_eq!(follower.view(&peer, CampaignPhase::Voting).last_error, None);
        let waits = follower.view(&peer, CampaignPhase::Leading).last_error.unwrap();
        assert!(waits.contains("oldest_lsn"), "{waits}");
    }
}
