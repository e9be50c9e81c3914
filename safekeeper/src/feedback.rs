//! What the readers of a timeline report, put together: the oldest transactions that their queries still need.
//!
//! A standby that reads here does not talk to the primary, so its hot standby feedback travels in append responses to
//! the proposer, which passes it on. `send_wal` reports, `receive_wal` takes the aggregate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consensus::{HotStandbyFeedback, PageserverFeedback};
use parking_lot::Mutex;
use pq_proto::replication::{self, StandbyStatusUpdate};
use wal_types::Lsn;

/// What one reader reported last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Sent to the reader, up to here.
    pub sent: Lsn,
    /// Received and written by the reader.
    pub write: Lsn,
    /// On the reader's disk.
    pub flush: Lsn,
    /// Replayed by the reader.
    pub apply: Lsn,
    /// What its queries need.
    pub hot_standby: HotStandbyFeedback,
    /// Progress, of a page server.
    pub pageserver: Option<PageserverFeedback>,
}

impl Report {
    /// What it has on disk, or at least has; of one that never says so, what it was sent.
    fn resumes_at(&self) -> Lsn {
        [self.flush, self.write, self.sent].into_iter().find(|lsn| lsn.is_valid()).unwrap_or_default()
    }
}

/// The newest timestamp, and the oldest of the transactions that somebody needs; zero is "nobody".
pub(crate) fn aggregate(reports: impl IntoIterator<Item = HotStandbyFeedback>) -> HotStandbyFeedback {
    let oldest = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
    reports.into_iter().fold(HotStandbyFeedback::default(), |sum, one| HotStandbyFeedback {
        timestamp: sum.timestamp.max(one.timestamp),
        xmin: oldest(sum.xmin, one.xmin),
        catalog_xmin: oldest(sum.catalog_xmin, one.catalog_xmin),
    })
}

/// A standby's message with 64-bit transaction ids: epoch above, number below (PostgreSQL documentation, "Streaming
/// Replication Protocol", hot standby feedback). Number zero is "none", whatever the epoch.
pub(crate) fn hot_standby(message: &replication::HotStandbyFeedback) -> HotStandbyFeedback {
    let full = |xid: u32, epoch: u32| if xid == 0 { 0 } else { u64::from(epoch) << 32 | u64::from(xid) };
    HotStandbyFeedback {
        timestamp: message.sent_at_micros,
        xmin: full(message.xmin, message.xmin_epoch),
        catalog_xmin: full(message.catalog_xmin, message.catalog_xmin_epoch),
    }
}

/// The reports of all readers of one timeline.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    reports: Mutex<BTreeMap<u64, Report>>,
    next: AtomicU64,
}

impl Readers {
    /// Adds a reader that begins at `start` and has reported nothing.
    pub(crate) fn join(self: &Arc<Self>, start: Lsn) -> Reader {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.with(|reports| reports.insert(key, Report { sent: start, ..Report::default() }));
        Reader { readers: Arc::clone(self), key }
    }

    /// How many read.
    pub(crate) fn count(&self) -> usize {
        self.with(|reports| reports.len())
    }

    /// Where the one begins again that is furthest behind, should its connection break now.
    pub(crate) fn furthest_behind(&self) -> Option<Lsn> {
        self.with(|reports| reports.values().map(Report::resumes_at).min())
    }

    /// What all of them need.
    pub(crate) fn hot_standby(&self) -> HotStandbyFeedback {
        self.with(|reports| aggregate(reports.values().map(|report| report.hot_standby)))
    }

    /// The newest report of a page server.
    pub(crate) fn pageserver(&self) -> Option<PageserverFeedback> {
        self.with(|reports| {
            reports.values().filter_map(|report| report.pageserver).max_by_key(|feedback| feedback.reply_time)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, Report>) -> T) -> T {
        act(&mut self.reports.lock())
    }
}

/// One reader; what it needs is forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    readers: Arc<Readers>,
    key: u64,
}

impl Reader {
    /// Takes a status update.
    pub(crate) fn status(&self, update: &StandbyStatusUpdate) {
        self.change(|report| {
            (report.write, report.flush, report.apply) = (update.write, update.flush, update.apply);
        });
    }

    /// It was sent everything below `lsn`.
    pub(crate) fn sent(&self, lsn: Lsn) {
        self.change(|report| report.sent = lsn);
    }

    /// Takes hot standby feedback.
    pub(crate) fn hot_standby(&self, feedback: HotStandbyFeedback) {
        self.change(|report| report.hot_standby = feedback);
    }

    /// Takes a page server's feedback.
    pub(crate) fn pageserver(&self, feedback: PageserverFeedback) {
        self.change(|report| report.pageserver = Some(feedback));
    }

    fn change(&self, act: impl FnOnce(&mut Report)) {
        self.readers.with(|reports| reports.get_mut(&self.key).map(act));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.with(|reports| reports.remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(timestamp: i64, xmin: u64, catalog_xmin: u64) -> HotStandbyFeedback {
        HotStandbyFeedback { timestamp, xmin, catalog_xmin }
    }

    #[test]
    fn the_oldest_need_counts_and_zero_is_none() {
        for (reports, expected) in [
            (&[][..], needs(0, 0, 0)),
            (&[needs(5, 0, 0)], needs(5, 0, 0)),
            (&[needs(5, 70, 0), needs(4, 90, 60)], needs(5, 70, 60)),
            (&[needs(1, 0, 0), needs(2, 90, 0), needs(3, 80, 0)], needs(3, 80, 0)),
            // A higher epoch is younger, whatever the number.
            (&[needs(1, 1 << 32 | 5, 0), needs(1, 9, 0)], needs(1, 9, 0)),
        ] {
            assert_eq!(aggregate(reports.iter().copied()), expected, "{reports:?}");
        }
    }

    #[test]
    fn epoch_and_number_make_one_id() {
        let message = replication::HotStandbyFeedback {
            sent_at_micros: 7,
            xmin: 3,
            xmin_epoch: 2,
            catalog_xmin: 0,
            catalog_xmin_epoch: 2,
        };
        assert_eq!(hot_standby(&message), needs(7, 2 << 32 | 3, 0));
    }

    #[test]
    fn a_reader_that_left_needs_nothing() {
        let readers = Arc::new(Readers::default());
        let (old, young) = (readers.join(Lsn(8)), readers.join(Lsn(8)));
        old.hot_standby(needs(1, 10, 0));
        young.hot_standby(needs(2, 20, 0));
        assert_eq!(readers.hot_standby(), needs(2, 10, 0));
        drop(old);
        assert_eq!(readers.hot_standby(), needs(2, 20, 0));
        assert_eq!(readers.count(), 1);
    }

    #[test]
    fn the_reader_that_is_furthest_behind_counts_by_what_it_has() {
        let status = |write, flush| StandbyStatusUpdate {
            write: Lsn(write),
            flush: Lsn(flush),
            apply: Lsn(0),
            sent_at_micros: 0,
            reply_requested: false,
        };
        let readers = Arc::new(Readers::default());
        assert_eq!(readers.furthest_behind(), None);
        let (silent, archiver, standby) = (readers.join(Lsn(50)), readers.join(Lsn(0)), readers.join(Lsn(8)));
        silent.sent(Lsn(400));
        archiver.sent(Lsn(400));
        archiver.status(&status(300, 0));
        standby.sent(Lsn(400));
        standby.status(&status(300, 200));
        assert_eq!(readers.furthest_behind(), Some(Lsn(200)));
        drop(standby);
        assert_eq!(readers.furthest_behind(), Some(Lsn(300)));
        drop(archiver);
        assert_eq!(readers.furthest_behind(), Some(Lsn(400)));
    }
}
