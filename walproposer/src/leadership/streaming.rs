//! [`Streaming`]: the stage of a leadership in which WAL flows and commits are acknowledged.
//!
//! One task owns all that a commit touches: the proposer, the primary's connection and all links. It works in turns. A
//! turn reads what has arrived, reports a new commit to the primary, and writes new WAL to all safekeepers; nothing is
//! handed to another task, and the task sleeps only when nothing has arrived.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use candidacy::Gap;
use consensus::{Action, Configuration};
use pq_proto::replication::{FromPrimary, XLogData};
use tokio::sync::mpsc;
use utils::{FlaggedTask, Shutdown, WakeFlag};
use wal_types::Lsn;

use super::LeadershipEnd;
use super::commit_waits::CommitWaits;
use crate::admin_requests::{self, AdminRequest};
use crate::campaign::Campaign;
use crate::primary::WalStream;
use crate::primary_name::PrimaryName;
use crate::settings_watch::SettingsWatch;
use crate::status::StatusBoard;

/// WAL that is read from the primary in one turn: the safekeepers' answers must not wait for a primary that always has more.
const TURN_WAL_BYTES_MAX: u64 = 256 * 1024;

/// Third stage: this process leads.
pub(super) struct Streaming<'a> {
    board: &'a StatusBoard,
    campaign: Campaign,
    stream: WalStream,
    waits: CommitWaits,
    /// Requests and the shutdown are polled only when they have woken the task themselves.
    task: FlaggedTask,
    requests_flag: WakeFlag,
    shutdown_flag: WakeFlag,
    /// End of the primary's WAL, as far as it was told.
    primary_end: Lsn,
    /// Position that was reported to the primary last.
    reported: Lsn,
    /// The primary's socket may have more that was not wanted in the last turn.
    has_unread: bool,
    /// Runs beside this task, as long as the leadership.
    _settings_watch: SettingsWatch,
}

impl<'a> Streaming<'a> {
    /// Leads with an approved campaign.
    pub(super) fn new(
        board: &'a StatusBoard,
        campaign: Campaign,
        stream: WalStream,
        settings_watch: SettingsWatch,
    ) -> Self {
        let waits = CommitWaits::new(board.histograms().clone());
        let (primary_end, reported) = (Lsn::INVALID, Lsn::INVALID);
        let task = FlaggedTask::new();
        Self {
            board,
            campaign,
            stream,
            waits,
            requests_flag: task.flag(),
            shutdown_flag: task.flag(),
            task,
            primary_end,
            reported,
            has_unread: true,
            _settings_watch: settings_watch,
        }
    }

    /// Streams until the leadership ends, then sends the followers the last commit position: without it they would learn
    /// the position only from the next leader.
    pub(super) async fn run(
        mut self,
        requests: &mut mpsc::Receiver<AdminRequest>,
        shutdown: &Shutdown,
    ) -> Result<Infallible, LeadershipEnd> {
        let mut draining = pin!(shutdown.draining());
        let ended = poll_fn(|cx| {
            self.task.set(cx);
            let shutdown_cx = &mut Context::from_waker(self.shutdown_flag.waker());
            if self.shutdown_flag.take() && draining.as_mut().poll(shutdown_cx).is_ready() {
                return Poll::Ready(Err(LeadershipEnd::Shutdown));
            }
            self.poll_turns(cx, requests)
        });
        let end = match ended.await {
            Ok(never) => match never {},
            Err(end) => end,
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

    /// Takes turns until nothing more can be done at once. The task is woken by what comes next.
    fn poll_turns(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut mpsc::Receiver<AdminRequest>,
    ) -> Poll<Result<Infallible, LeadershipEnd>> {
        loop {
            self.campaign.poll_arrivals(cx)?;
            self.handle_actions()?;
            self.poll_primary(cx)?;
            self.poll_requests(requests);
            let sends_more = self.campaign.send_due_messages(cx);
            if self.campaign.is_stuck() {
                return Poll::Ready(Err(LeadershipEnd::Stuck));
            }

            self.publish_positions();
            let reads_more = self.has_unread && self.campaign.proposer().wants_wal();
            if !reads_more && !sends_more {
                return Poll::Pending;
            }
        }
    }

    fn handle_actions(&mut self) -> Result<(), LeadershipEnd> {
        while let Some(action) = self.campaign.pop_action() {
            match action {
                Action::Committed(lsn) => {
                    self.stream.report(lsn);
                    self.reported = lsn;
                }
                // The log was given to another primary under this term: no more WAL of this primary may be written.
                Action::Configured(Configuration { primary: Some(designated), .. })
                    if self.campaign.primary() != Some(designated) =>
                {
                    return Err(LeadershipEnd::NotDesignated(PrimaryName(designated.name)));
                }
                Action::Configured(_)
                | Action::PreVoted { .. }
                | Action::Elected(_)
                | Action::Checksum { .. }
                | Action::Reset(_) => {}
            }
        }
        Ok(())
    }

    /// Writes the report that is due, and reads what has arrived, up to [`TURN_WAL_BYTES_MAX`].
    ///
    /// With a full buffer no more WAL is read. The connection stays open, and its end is noticed.
    fn poll_primary(&mut self, cx: &mut Context<'_>) -> Result<(), LeadershipEnd> {
        let before = self.campaign.proposer().received_lsn();
        loop {
            let received = self.campaign.proposer().received_lsn();
            let turn_is_full = received.bytes_since(before) >= TURN_WAL_BYTES_MAX;
            let wanted = self.campaign.proposer().wants_wal() && !turn_is_full;
            self.has_unread = !wanted;
            match self.stream.poll_next_or_end(cx, wanted)? {
                Poll::Ready(item) => self.handle_item(item)?,
                Poll::Pending => break,
            }
        }

        self.waits.record_report(self.reported);
        let received = self.campaign.proposer().received_lsn();
        if received > before {
            self.waits.record_arrival(received, self.campaign.proposer().commit_lsn());
        }
        Ok(())
    }

    fn handle_item(&mut self, item: FromPrimary) -> Result<(), LeadershipEnd> {
        match item {
            FromPrimary::XLogData(XLogData { start, server_end, data, .. }) => {
                self.primary_end = self.primary_end.max(server_end);
                let expected = self.campaign.proposer().received_lsn();
                if !self.campaign.append(start, data) {
                    return Err(Gap { expected, got: start }.into());
                }
            }
            FromPrimary::Keepalive(keepalive) => {
                self.primary_end = self.primary_end.max(keepalive.server_end)
            }
        }
        Ok(())
    }

    /// Carries out what operators requested.
    fn poll_requests(&mut self, requests: &mut mpsc::Receiver<AdminRequest>) {
        if !self.requests_flag.take() {
            return;
        }
        let cx = &mut Context::from_waker(self.requests_flag.waker());
        while let Poll::Ready(request) = admin_requests::poll_request(requests, cx) {
            let answer = self.campaign.begin_change(request.change);
            // The client may have gone away; the status shows the change as well.
            let _ = request.answer.send(answer);
        }
    }

    /// Shows the positions of this turn. The rest of the status is published by the campaign.
    fn publish_positions(&self) {
        let received = self.campaign.proposer().received_lsn();
        self.board.update(|snapshot| {
            snapshot.commit_lsn = self.campaign.proposer().commit_lsn();
            snapshot.reported_lsn = self.reported;
            snapshot.primary_flush_lsn = snapshot.primary_flush_lsn.max(self.primary_end).max(received);
        });
    }
}
