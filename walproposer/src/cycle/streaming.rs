//! [`Streaming`]: the stage of a turn in which WAL flows and commits are acknowledged.

use std::convert::Infallible;
use std::time::Duration;

use consensus::Action;
use pq_proto::replication::{FromPrimary, XLogData};
use tokio::time::{MissedTickBehavior, interval};
use utils::Shutdown;
use wal_types::Lsn;

use super::End;
use crate::campaign::Campaign;
use crate::primary::WalStream;
use crate::status::Board;

/// How often it is looked whether anybody can still serve those that lag.
const STUCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Leading.
pub(super) struct Streaming<'a> {
    pub(super) board: &'a Board,
    pub(super) campaign: Campaign,
    pub(super) stream: WalStream,
}

impl Streaming<'_> {
    /// Streams until something ends it, then tells the followers the last commit position: nobody else will, until the
    /// next election.
    pub(super) async fn run(mut self, shutdown: &Shutdown) -> Result<Infallible, End> {
        let end = tokio::select! {
            ended = self.stream() => match ended {
                Ok(never) => match never {},
                Err(end) => end,
            },
            () = shutdown.draining() => End::Leaving,
        };
        if let End::Primary(_) | End::Leaving = &end {
            drop(self.stream);
            self.campaign.farewell().await;
        }
        Err(end)
    }

    async fn stream(&mut self) -> Result<Infallible, End> {
        let mut check = interval(STUCK_CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(action) = self.campaign.take_action() {
                self.act(&action);
            }
            self.campaign.send_what_is_due();
            // With a full buffer the primary is read no further, but it goes on hearing from us, and its end is seen.
            let wants_wal = self.campaign.proposer().wants_wal();
            // All may be dropped: what was not returned stays queued.
            tokio::select! {
                changed = self.campaign.changed() => changed?,
                item = self.stream.next_or_end(wants_wal) => self.take(item?)?,
                _ = check.tick() => if self.campaign.proposer().is_stuck() {
                    return Err(End::Stuck);
                },
            }
        }
    }

    fn act(&self, action: &Action) {
        if let &Action::Committed(lsn) = action {
            self.stream.report(lsn);
            self.board.update(|snapshot| {
                snapshot.commit_lsn = lsn;
                snapshot.reported_lsn = lsn;
            });
        }
    }

    /// Takes a message and those that wait behind it, so that they go out together.
    fn take(&mut self, first: FromPrimary) -> Result<(), End> {
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

    fn append(&mut self, piece: XLogData) -> Result<(), End> {
        let XLogData { start, data, .. } = piece;
        let expected = self.campaign.proposer().received_lsn();
        let taken = self.campaign.append(start, data);
        if taken { Ok(()) } else { Err(End::Gap { expected, got: start }) }
    }
}
