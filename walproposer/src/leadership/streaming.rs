//! [`Streaming`]: the stage of a turn in which WAL flows and commits are acknowledged.

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

/// How often it is looked whether anybody can still serve those that lag.
const STUCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Leading.
pub(super) struct Streaming<'a> {
    pub(super) board: &'a StatusBoard,
    pub(super) campaign: Campaign,
    pub(super) stream: WalStream,
}

impl Streaming<'_> {
    /// Streams until something ends it, then tells the followers the last commit position: nobody else will, until the
    /// next election.
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
            () = shutdown.draining() => LeadershipEnd::Leaving,
        };
        if let LeadershipEnd::Primary(_) | LeadershipEnd::Leaving | LeadershipEnd::NotDesignated(_) = &end {
            drop(self.stream);
            self.campaign.farewell().await;
        }
        Err(end)
    }

    async fn stream(
        &mut self,
        requests: &mut mpsc::Receiver<AdminRequest>,
    ) -> Result<Infallible, LeadershipEnd> {
        let mut check = interval(STUCK_CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(action) = self.campaign.take_action() {
                self.act(&action)?;
            }
            self.campaign.send_what_is_due();
            // With a full buffer the primary is read no further, but it goes on hearing from us, and its end is seen.
            let wants_wal = self.campaign.proposer().wants_wal();
            // All may be dropped: what was not returned stays queued.
            tokio::select! {
                changed = self.campaign.changed() => changed?,
                request = admin_requests::next_request(requests) => {
                    let answer = self.campaign.change(request.change);
                    // Who asked may have gone; the status tells it as well.
                    let _ = request.answer.send(answer);
                }
                item = self.stream.next_or_end(wants_wal) => self.take(item?)?,
                _ = check.tick() => if self.campaign.proposer().is_stuck() {
                    return Err(LeadershipEnd::Stuck);
                },
            }
        }
    }

    fn act(&self, action: &Action) -> Result<(), LeadershipEnd> {
        match action {
            &Action::Committed(lsn) => {
                self.stream.report(lsn);
                self.board.update(|snapshot| {
                    snapshot.commit_lsn = lsn;
                    snapshot.reported_lsn = lsn;
                });
            }
            // The log was given away under our own term: what is written from here on is not for it.
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

    /// Takes a message and those that wait behind it, so that they go out together.
    fn take(&mut self, first: FromPrimary) -> Result<(), LeadershipEnd> {
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
        let taken = self.campaign.append(start, data);
        if taken { Ok(()) } else { Err(LeadershipEnd::Gap { expected, got: start }) }
    }
}
