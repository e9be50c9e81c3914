//! [`Follower`]: what a campaign holds for one safekeeper beside what the proposer knows of it.

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

/// What the campaign holds for one safekeeper.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) address: SafekeeperAddress,
    /// Keeps the connection open.
    pub(super) link: AbortHandle,
    pub(super) connecting: bool,
    pub(super) connection: Option<Connection>,
    pub(super) donor_stream: Option<DonorStream>,
    donor_retry_at: Option<Instant>,
    pub(super) trouble: Option<Trouble>,
}

/// What last went wrong.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: String,
    /// Else until the next answer.
    pub(super) until_it_follows: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) incarnation: u64,
    /// Dropping it closes the connection.
    pub(super) queue: mpsc::Sender<ProposerMessage>,
    pub(super) unanswered_since: Option<Instant>,
}

/// What is needed to read from a donor.
pub(super) struct Donors<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) wake: &'a Arc<Notify>,
}

impl Follower {
    pub(super) const fn new(address: SafekeeperAddress, link: AbortHandle) -> Self {
        Self {
            address,
            link,
            connecting: false,
            connection: None,
            donor_stream: None,
            donor_retry_at: None,
            trouble: None,
        }
    }

    /// Since when the oldest message that may be unanswered is.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.connection.as_ref()?.unanswered_since
    }

    /// True while messages wait for the link.
    pub(super) fn has_unsent(&self) -> bool {
        let queue = self.connection.as_ref().map(|connection| &connection.queue);
        queue.is_some_and(|queue| !queue.is_closed() && queue.capacity() < queue.max_capacity())
    }

    pub(super) fn answered(&mut self, follows: bool) {
        self.trouble = self.trouble.take().filter(|trouble| trouble.until_it_follows && !follows);
        if let Some(connection) = &mut self.connection {
            connection.unanswered_since = None;
        }
    }

    /// Passes a piece of a donor on, or begins to read from one. True when the proposer has more to send now.
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
            // Bytes that do not continue the stream belong to a position of before: read anew.
            Ok(Ok((at, wal))) if proposer.fetched(node, donor_stream.donor, at, &wal) => return true,
            Ok(Ok(_)) => self.donor_stream = None,
            Ok(Err(reason)) => {
                tracing::warn!(safekeeper = %node, reason, "no WAL from a donor");
                self.trouble = Some(Trouble { reason, until_it_follows: false });
                proposer.donor_failed(node, donor_stream.donor);
                self.donor_stream = None;
                self.donor_retry_at = Some(Instant::now() + DONOR_RETRY_DELAY);
            }
            Err(mpsc::error::TryRecvError::Empty) => {}
            Err(mpsc::error::TryRecvError::Disconnected) => self.donor_stream = None,
        }
        false
    }

    pub(super) fn view(&self, peer: &PeerStatus, phase: CampaignPhase) -> SafekeeperView {
        let begins_late = "its log begins above what the others hold: it waits until they do; if they never will, create it \
                           anew, with their highest oldest_lsn as start_lsn";
        let unseeded = "its log ends below everything that the history of this term knows: seed it anew";
        SafekeeperView {
            address: self.address.clone(),
            state: match peer.state {
                PeerState::Offline if self.connecting => LinkState::Connecting,
                PeerState::Offline => LinkState::Offline,
                PeerState::Greeting => LinkState::Connecting,
                PeerState::Greeted | PeerState::Voting => LinkState::Greeted,
                PeerState::Voted | PeerState::Unseeded => LinkState::Voted,
                PeerState::Streaming { .. } if peer.catching_up => LinkState::CatchingUp,
                PeerState::Streaming { .. } => LinkState::Streaming,
            },
            flush_lsn: peer.flush_lsn,
            commit_lsn: peer.commit_lsn,
            unanswered_since: self.unanswered_since(),
            last_error: match peer.state {
                PeerState::Unseeded => Some(unseeded.to_owned()),
                PeerState::Voted if phase == CampaignPhase::Leading => Some(begins_late.to_owned()),
                _ => self.trouble.as_ref().map(|trouble| trouble.reason.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use wal_types::Lsn;

    use super::*;

    #[tokio::test]
    async fn who_waits_although_somebody_leads_says_what_it_waits_for() {
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
