//! [`CheckedRequest`]: a START_REPLICATION request that was checked against the log. The error texts are PostgreSQL's,
//! because stock tools show them.

use std::sync::Arc;

use consensus::TliSwitch;
use pq_proto::{ErrorResponse, SqlState};
use wal_store::{ReadMode, Snapshot};
use wal_types::{Lsn, Term, Tli};

use crate::command::StartReplication;
use crate::pg_timelines::{PgTimelineLookup, PgTimelines};
use crate::slots::SlotUse;
use crate::timeline::Timeline;

/// A request whose WAL can be streamed.
#[derive(Debug)]
pub(crate) struct CheckedRequest {
    pub(super) timeline: Arc<Timeline>,
    /// First byte to send.
    pub(super) start: Lsn,
    tli: Option<Tli>,
    /// The term of the proposer that asks; `None` for readers of committed WAL.
    term: Option<Term>,
    /// The slot that the reader has.
    pub(super) slot: Option<SlotUse>,
}

/// Result of checking a request.
pub(crate) enum ReplicationStart {
    /// WAL can be streamed.
    Stream(CheckedRequest),
    /// The reader has all of the PostgreSQL timeline that it asked for; the switch names the next one.
    TimelineEnded(TliSwitch),
}

impl CheckedRequest {
    /// Checks a request against the log of `timeline`. The caller has taken the slot that the request names.
    pub(crate) fn check(
        timeline: &Arc<Timeline>,
        request: &StartReplication,
        slot: Option<SlotUse>,
    ) -> Result<ReplicationStart, ErrorResponse> {
        let &StartReplication { start, tli, term, .. } = request;
        let snapshot = timeline.snapshot();
        let checked = Self { timeline: Arc::clone(timeline), start, tli, term, slot };
        checked.check_term(&snapshot)?;
        // Also refuses a start below the first byte of the log.
        check_not_removed(&snapshot, start)?;

        let Some(tli) = tli else { return Ok(ReplicationStart::Stream(checked)) };
        match checked.pg_timelines(&snapshot).lookup(tli) {
            PgTimelineLookup::Current => Ok(ReplicationStart::Stream(checked)),
            PgTimelineLookup::Ended(switch) if start < switch.at => Ok(ReplicationStart::Stream(checked)),
            PgTimelineLookup::Ended(switch) if start == switch.at => {
                Ok(ReplicationStart::TimelineEnded(switch))
            }
            PgTimelineLookup::Ended(switch) => {
                let message = format!(
                    "requested starting point {start} on timeline {tli} is not in this server's history"
                );
                let detail = format!("This server's history forked from timeline {tli} at {}.", switch.at);
                Err(ErrorResponse::error(SqlState::INTERNAL_ERROR, message).with_detail(detail))
            }
            PgTimelineLookup::Unknown => {
                let message = format!("requested timeline {tli} is not in this server's history");
                Err(ErrorResponse::error(SqlState::UNDEFINED_FILE, message))
            }
        }
    }

    /// Which WAL the reader may get.
    pub(super) fn read_mode(&self) -> ReadMode {
        self.term.map_or(ReadMode::Committed, ReadMode::Flushed)
    }

    /// Refuses a proposer whose term has ended.
    pub(super) fn check_term(&self, snapshot: &Snapshot) -> Result<(), ErrorResponse> {
        match self.term {
            Some(requested) if requested != snapshot.term => {
                let message = format!(
                    "requested WAL of term {requested}, but this safekeeper is at term {}",
                    snapshot.term
                );
                Err(ErrorResponse::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
            }
            _ => Ok(()),
        }
    }

    /// The position up to which WAL can be sent now. When the requested PostgreSQL timeline ends there, also the switch to
    /// the next one.
    pub(super) fn end(&self, snapshot: &Snapshot) -> (Lsn, Option<TliSwitch>) {
        match self.tli.map(|tli| self.pg_timelines(snapshot).lookup(tli)) {
            Some(PgTimelineLookup::Ended(switch)) => (switch.at, Some(switch)),
            _ => (self.available(snapshot), None),
        }
    }

    fn available(&self, snapshot: &Snapshot) -> Lsn {
        if self.term.is_some() { snapshot.flush_lsn } else { snapshot.commit_lsn }
    }

    fn pg_timelines(&self, snapshot: &Snapshot) -> PgTimelines {
        let (past, end) = (&self.timeline.start_history, self.available(snapshot));
        PgTimelines::new(snapshot.lineage.start_tli, past, &snapshot.tli_switches, end)
    }
}

/// Refuses a position below the oldest WAL that is kept.
pub(super) fn check_not_removed(snapshot: &Snapshot, lsn: Lsn) -> Result<(), ErrorResponse> {
    if lsn >= snapshot.oldest_lsn {
        return Ok(());
    }
    let size = snapshot.lineage.segment_size;
    let tli = snapshot.history.tli_at(lsn).unwrap_or(snapshot.lineage.start_tli);
    let segment = wal_format::SegmentName { tli, segment: size.segment_of(lsn), size };
    let message = format!("requested WAL segment {segment} has already been removed");
    Err(ErrorResponse::error(SqlState::UNDEFINED_FILE, message))
}
