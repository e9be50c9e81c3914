//! START_REPLICATION: one reader, from its request to the end of the copy.
//!
//! A reader gets what is committed, and waits for more. With `(term='N')` it gets everything that is durable, as long
//! as N is the term: a proposer fetches so what another safekeeper lacks. Here is what a request may ask for, and in
//! `sender` how it is streamed. Called by `session`.

mod sender;

use std::sync::Arc;

use consensus::TliSwitch;
use postgres_backend::{CopyBoth, CopyEnd, Io};
use pq_proto::{ErrorResponse, SqlState};
use utils::Shutdown;
use wal_store::{ReadMode, Snapshot};
use wal_types::{Lsn, Term};

use crate::command::StartReplication;
use crate::metrics::Metrics;
use crate::timeline::Timeline;
use crate::tli_lines::{TliLines, TliRequest};
use sender::Sender;

/// A request that was checked.
#[derive(Debug)]
pub(crate) struct Sending {
    timeline: Arc<Timeline>,
    request: StartReplication,
}

/// What a request comes to.
pub(crate) enum Prepared {
    /// WAL is to be streamed.
    Stream(Sending),
    /// The reader has all of that PostgreSQL timeline, and is told which one is next.
    Ended(TliSwitch),
}

/// Checks a request against what is here.
pub(crate) fn prepare(
    timeline: &Arc<Timeline>,
    request: StartReplication,
) -> Result<Prepared, ErrorResponse> {
    let snapshot = timeline.snapshot();
    check_term(&snapshot, request.term)?;
    let start = request.start;
    // A reader that begins at the start of a segment may ask for bytes from before the log began: there are none.
    if start < snapshot.oldest_lsn {
        return Err(removed(&snapshot, start));
    }
    if let Some(tli) = request.tli {
        match lines(&snapshot, request.term).request(tli) {
            TliRequest::Current => {}
            TliRequest::Ended(switch) if start < switch.at => {}
            TliRequest::Ended(switch) if start == switch.at => return Ok(Prepared::Ended(switch)),
            TliRequest::Ended(switch) => {
                let message = format!(
                    "requested starting point {start} on timeline {tli} is not in this server's history"
                );
                let detail = format!("This server's history forked from timeline {tli} at {}.", switch.at);
                return Err(ErrorResponse::error(SqlState::INTERNAL_ERROR, message).with_detail(detail));
            }
            TliRequest::Unknown => {
                let message = format!("requested timeline {tli} is not in this server's history");
                return Err(ErrorResponse::error(SqlState::UNDEFINED_FILE, message));
            }
        }
    }
    Ok(Prepared::Stream(Sending { timeline: Arc::clone(timeline), request }))
}

impl Sending {
    /// Runs the copy.
    pub(crate) async fn run<S: Io>(
        self,
        stream: CopyBoth<S>,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> CopyEnd<S> {
        let mode = self.request.term.map_or(ReadMode::Committed, ReadMode::Flushed);
        let wal = self.timeline.reader(mode);
        let CopyBoth { mut reader, mut writer } = stream;
        let mut sender = Sender::new(&self.timeline, self.request, wal, metrics);
        let (received, sent) = Box::pin(sender.run(&mut reader, &mut writer, shutdown)).await;
        CopyEnd { stream: CopyBoth { reader, writer }, received, sent }
    }
}

fn lines(snapshot: &Snapshot, term: Option<Term>) -> TliLines {
    let end = if term.is_some() { snapshot.flush_lsn } else { snapshot.commit_lsn };
    TliLines::new(snapshot.lineage.start_tli, &snapshot.tli_switches, end)
}

fn check_term(snapshot: &Snapshot, asked: Option<Term>) -> Result<(), ErrorResponse> {
    match asked {
        Some(asked) if asked != snapshot.term => {
            let message = format!(
                "WAL of term {asked} was asked for, but this safekeeper is at term {}",
                snapshot.term
            );
            Err(ErrorResponse::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
        }
        _ => Ok(()),
    }
}

fn removed(snapshot: &Snapshot, lsn: Lsn) -> ErrorResponse {
    let size = snapshot.lineage.segment_size;
    let tli = snapshot.history.tli_at(lsn).unwrap_or(snapshot.lineage.start_tli);
    let segment = wal_format::SegmentName { tli, segment: size.segment_of(lsn), size };
    let message = format!("requested WAL segment {segment} has already been removed");
    ErrorResponse::error(SqlState::UNDEFINED_FILE, message)
}
