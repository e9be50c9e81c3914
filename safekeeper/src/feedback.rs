//! Feedback of the readers of a timeline: positions, and the oldest transactions that their queries still need.
//!
//! A standby that reads from a safekeeper does not talk to the primary. Its hot standby feedback therefore travels in
//! append responses to the proposer, which passes it on. `send_wal` records the reports. The shards send the aggregate,
//! and ask for the reader that is furthest behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consensus::{HotStandbyFeedback, PageserverFeedback};
use parking_lot::Mutex;
use pq_proto::replication::{self, StandbyStatusUpdate};
use wal_types::Lsn;

/// The last report of one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReaderReport {
    /// WAL below this was sent to the reader.
    pub sent: Lsn,
    /// Written by the reader up to here.
    pub write: Lsn,
    /// On the reader's disk up to here.
    pub flush: Lsn,
    /// Replayed by the reader up to here.
    pub apply: Lsn,
    /// The oldest transactions that its queries need.
    pub hot_standby: HotStandbyFeedback,
    /// Progress of a page server.
    pub pageserver: Option<PageserverFeedback>,
}

impl ReaderReport {
    /// Where the reader would resume after a reconnect: its flush position, else its write position. A reader that never
    /// reports counts by what it was sent.
    fn resumes_at(&self) -> Lsn {
        [self.flush, self.write, self.sent].into_iter().find(|lsn| lsn.is_valid()).unwrap_or_default()
    }
}

/// The newest timestamp, and the oldest transactions that any reader needs. Zero means none.
pub(crate) fn aggregate(reports: impl IntoIterator<Item = HotStandbyFeedback>) -> HotStandbyFeedback {
    let oldest = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
    reports.into_iter().fold(HotStandbyFeedback::default(), |sum, one| HotStandbyFeedback {
        timestamp: sum.timestamp.max(one.timestamp),
        xmin: oldest(sum.xmin, one.xmin),
        catalog_xmin: oldest(sum.catalog_xmin, one.catalog_xmin),
    })
}

/// A standby's message with 64-bit transaction ids: the epoch in the upper half, the number in the lower (PostgreSQL
/// documentation, "Streaming Replication Protocol", hot standby feedback). Number zero means none, whatever the epoch.
pub(crate) fn hot_standby(message: &replication::HotStandbyFeedback) -> HotStandbyFeedback {
    let full = |xid: u32, epoch: u32| if xid == 0 { 0 } else { u64::from(epoch) << 32 | u64::from(xid) };
    HotStandbyFeedback {
        timestamp: message.sent_at_micros,
        xmin: full(message.xmin, message.xmin_epoch),
        catalog_xmin: full(message.catalog_xmin, message.catalog_xmin_epoch),
    }
}

/// The connected readers of one timeline, and their reports.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    reports: Mutex<BTreeMap<u64, ReaderReport>>,
    next_key: AtomicU64,
}

impl Readers {
    /// Adds a reader that begins at `start` and has reported nothing.
    pub(crate) fn register(self: &Arc<Self>, start: Lsn) -> RegisteredReader {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        self.reports.lock().insert(key, ReaderReport { sent: start, ..ReaderReport::default() });
        RegisteredReader { readers: Arc::clone(self), key }
    }

    /// How many readers are connected.
    pub(crate) fn count(&self) -> usize {
        self.reports.lock().len()
    }

    /// The lowest position at which one of the readers would resume after a reconnect. `None` without readers.
    pub(crate) fn furthest_behind(&self) -> Option<Lsn> {
        self.reports.lock().values().map(ReaderReport::resumes_at).min()
    }

    /// The needs of all readers in one.
    pub(crate) fn hot_standby(&self) -> HotStandbyFeedback {
        aggregate(self.reports.lock().values().map(|report| report.hot_standby))
    }

    /// The newest report of a page server.
    pub(crate) fn pageserver(&self) -> Option<PageserverFeedback> {
        let reports = self.reports.lock();
        reports.values().filter_map(|report| report.pageserver).max_by_key(|feedback| feedback.reply_time)
    }
}

/// One connected reader. Dropping it removes its report.
#[derive(Debug)]
pub(crate) struct RegisteredReader {
    readers: Arc<Readers>,
    key: u64,
}

impl RegisteredReader {
    /// Records a standby status update.
    pub(crate) fn record_status(&self, update: &StandbyStatusUpdate) {
        self.update(|report| {
            (report.write, report.flush, report.apply) = (update.write, update.flush, update.apply);
        });
    }

    /// Records that all WAL below `lsn` was sent.
    pub(crate) fn record_sent(&self, lsn: Lsn) {
        self.update(|report| report.sent = lsn);
    }

    /// Records hot standby feedback.
    pub(crate) fn record_hot_standby(&self, feedback: HotStandbyFeedback) {
        self.update(|report| report.hot_standby = feedback);
    }

    /// Records the feedback of a page server.
    pub(crate) fn record_pageserver(&self, feedback: PageserverFeedback) {
        self.update(|report| report.pageserver = Some(feedback));
    }

    fn update(&self, act: impl FnOnce(&mut ReaderReport)) {
        self.readers.reports.lock().get_mut(&self.key).map(act);
    }
}

impl Drop for RegisteredReader {
    fn drop(&mut self) {
        self.readers.reports.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(timestamp: i64, xmin: u64, catalog_xmin: u64) -> HotStandbyFeedback {
        HotStandbyFeedback { timestamp, xmin, catalog_xmin }
    }

    #[test]
    fn aggregate_keeps_oldest_need_and_skips_zero() {
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
    fn hot_standby_joins_epoch_and_number() {
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
    fn dropped_reader_needs_nothing() {
        let readers = Arc::new(Readers::default());
        let (old, young) = (readers.register(Lsn(8)), readers.register(Lsn(8)));
        old.record_hot_standby(needs(1, 10, 0));
        young.record_hot_standby(needs(2, 20, 0));
        assert_eq!(readers.hot_standby(), needs(2, 10, 0));
        drop(old);
        assert_eq!(readers.hot_standby(), needs(2, 20, 0));
        assert_eq!(readers.count(), 1);
    }

    /// A reader counts by its flush position, else by its write position, else by what it was sent.
    #[test]
    fn furthest_behind_is_lowest_resume_position() {
        let status = |write, flush| StandbyStatusUpdate {
            write: Lsn(write),
            flush: Lsn(flush),
            apply: Lsn(0),
            sent_at_micros: 0,
            reply_requested: false,
        };
        let readers = Arc::new(Readers::default());
        assert_eq!(readers.furthest_behind(), None);
        let (silent, archiver) = (readers.register(Lsn(50)), readers.register(Lsn(0)));
        let standby = readers.register(Lsn(8));
        silent.record_sent(Lsn(400));
        archiver.record_sent(Lsn(400));
        archiver.record_status(&status(300, 0));
        standby.record_sent(Lsn(400));
        standby.record_status(&status(300, 200));
        assert_eq!(readers.furthest_behind(), Some(Lsn(200)));
        drop(standby);
        assert_eq!(readers.furthest_behind(), Some(Lsn(300)));
        drop(archiver);
        assert_eq!(readers.furthest_behind(), Some(Lsn(400)));
    }
}
