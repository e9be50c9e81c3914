//! [`Streaming`]: the stage of a leadership in which WAL flows and commits are acknowledged.

use std::convert::Infallible;
use std::time::Duration;

use consensus::{Action, Configuration};
use pq_proto::replication::{FromPrimary, XLogData};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use utils::Shutdown;
use wal_types::Lsn;

use super::LeadershipEnd;
use crate::admin_requests::{self, AdminRequest};
use crate::campaign::Campaign;
use crate::primary::WalStream;
use crate::primary_name::PrimaryName;
use crate::status::StatusBoard;

/// Interval of the check that the WAL that lagging safekeepers need is still available.
const STUCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Third stage: this process leads.
pub(super) struct Streaming<'a> {
    pub(super) board: &'a StatusBoard,
    pub(super) campaign: Campaign,
    pub(super) stream: WalStream,
}

impl Streaming<'_> {
    /// Streams until the leadership ends, then sends the followers the last commit position: without it they would learn
    /// the position only from the next leader.
    pub(super) async fn run(
        mut self,
        requests: &mut mpsc::Receiver<AdminRequest>,
        shutdown: &Shutdown,
    ) -> Result<Infallible, LeadershipEnd> {
        let end = tokio::select! {
            ended = self.stream(requests) => match ended {
                Ok(never) => match never {},
                Err(end) => end,
            },
            () = shutdown.draining() => LeadershipEnd::Shutdown,
        };

        let may_still_announce = matches!(
            end,
            LeadershipEnd::Primary(_) | LeadershipEnd::Shutdown | LeadershipEnd::NotDesignated(_)
        );
        if may_still_announce {
            drop(self.stream);
            self.campaign.finish().await;
        }
        Err(end)
    }

    async fn stream(
        &mut self,
        requests: &mut mpsc::Receiver<AdminRequest>,
    ) -> Result<Infallible, LeadershipEnd> {
        let mut stuck_check = interval(STUCK_CHECK_INTERVAL);
        stuck_check.set_missed_tick_behavior(MissedTickBehavior::Delay);

        loop {
            while let Some(action) = self.campaign.pop_action() {
                self.handle_action(&action)?;
            }
            self.campaign.send_due_messages();

            // With a full buffer no more WAL is read from the primary. Its connection stays open, and its end is noticed.
            let wants_wal = self.campaign.proposer().wants_wal();
            // Every arm may be cancelled: an item that was not returned stays queued.
            tokio::select! {
                stepped = self.campaign.step() => stepped?,
                request = admin_requests::next_request(requests) => {
                    let answer = self.campaign.begin_change(request.change);
                    // The client may have gone away; the status shows the change as well.
                    let _ = request.answer.send(answer);
                }
                item = self.stream.next_or_end(wants_wal) => self.handle_items(item?)?,
                _ = stuck_check.tick() => if self.campaign.proposer().is_stuck() {
                    return Err(LeadershipEnd::Stuck);
                },
            }
        }
    }

    fn handle_action(&self, action: &Action) -> Result<(), LeadershipEnd> {
        match action {
            &Action::Committed(lsn) => {
                self.stream.report(lsn);
                self.board.update(|snapshot| {
                    snapshot.commit_lsn = lsn;
                    snapshot.reported_lsn = lsn;
                });
            }
            // The log was given to another primary under this term: no more WAL of this primary may be written.
            Action::Configured(Configuration { primary: Some(designated), .. })
                if self.campaign.primary() != Some(*designated) =>
            {
                return Err(LeadershipEnd::NotDesignated(PrimaryName(*designated)));
            }
            Action::Configured(_)
            | Action::PreVoted { .. }
            | Action::Elected(_)
            | Action::Checksum { .. }
            | Action::Reset(_) => {}
        }
        Ok(())
    }

    /// Handles a message of the primary and all that already wait behind it, so that their WAL is sent together.
    fn handle_items(&mut self, first: FromPrimary) -> Result<(), LeadershipEnd> {
        let mut next = Some(first);
        let mut primary_end = Lsn::INVALID;
        while let Some(item) = next {
            match item {
                FromPrimary::XLogData(piece) => {
                    primary_end = primary_end.max(piece.server_end);
                    self.append(piece)?;
                }
                FromPrimary::Keepalive(keepalive) => primary_end = primary_end.max(keepalive.server_end),
            }
            next = if self.campaign.proposer().wants_wal() { self.stream.try_next() } else { None };
        }

        let received = self.campaign.proposer().received_lsn();
        self.board.update(|snapshot| {
            snapshot.primary_flush_lsn = snapshot.primary_flush_lsn.max(primary_end).max(received);
        });
        Ok(())
    }

    fn append(&mut self, piece: XLogData) -> Result<(), LeadershipEnd> {
        let XLogData { start, data, .. } = piece;
        let expected = self.campaign.proposer().received_lsn();
        if self.campaign.append(start, data) {
            Ok(())
        } else {
            Err(LeadershipEnd::Gap { expected, got: start })
        }
    }
}
