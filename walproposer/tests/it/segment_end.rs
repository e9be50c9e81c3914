//! Logs that end exactly with a segment: the primary may have no file with their last byte.

use std::sync::Arc;
use std::time::Duration;

use candidacy::RetryDelays;
use wal_types::{Lsn, Tli};

use crate::support::primary::SEGMENT_BYTES;
use crate::support::{LINEAGE_START, TestCluster, Walproposer};

/// A cluster whose log ends with a segment: all safekeepers have what the primary wrote, the last record was a switch to a
/// new segment, and the walproposer was stopped.
struct FullSegment {
    cluster: TestCluster,
    end: Lsn,
}

impl FullSegment {
    async fn new() -> Self {
        let mut cluster = TestCluster::start(3).await;
        let walproposer = cluster.start_walproposer().await;
        cluster.write(30_000);
        let end = cluster.primary.write(&cluster.wal.switch().bytes);
        assert_eq!(end, LINEAGE_START.advance(SEGMENT_BYTES.into()));
        cluster.safekeepers.until_all_flushed(end).await;
        cluster.primary.until_acknowledged(end).await;
        walproposer.stop().await;
        cluster.primary.forget_connections();
        Self { cluster, end }
    }

    /// Another server takes over at the end of the log. It has the WAL that it received under the old timeline, and begins
    /// the new timeline with a new segment.
    fn promote(&mut self) {
        self.cluster.wal.set_tli(Tli(2));
        self.cluster.primary.change(|server| {
            server.tli = Tli(2);
            server.history = Some(format!("1\t{}\tno recovery target specified\n", self.end));
            server.missing = vec![(Tli(2), LINEAGE_START)];
        });
    }

    /// The primary has removed the last segment of the log.
    fn remove_last_segment(&self) {
        self.cluster.primary.change(|server| server.missing = vec![(Tli(1), LINEAGE_START)]);
    }

    async fn assert_writable(&mut self) {
        let end = self.cluster.write_acknowledged(30_000).await;
        self.cluster.safekeepers.until_all_flushed(end).await;
        self.cluster.assert_same_wal([2]).await;
    }

    /// Fails unless the primary is refused for a reason that contains `words`, through several leaderships. Nothing may be
    /// acknowledged, and no safekeeper may be told to follow.
    async fn assert_refused(&self, words: &str) {
        let histories = self.cluster.safekeepers.histories().await;
        let short = Duration::from_millis(50);
        let delays = RetryDelays { diverged_min: short, diverged_max: short };
        let (primary, safekeepers) = (&self.cluster.primary, self.cluster.safekeepers.cluster());
        let walproposer = Walproposer::start_with_delays(primary, safekeepers, delays).await;
        self.cluster.primary.until("three leaderships", |server| server.streams.len() >= 3).await;
        walproposer.until_blocked(words).await;
        self.cluster.assert_nothing_acknowledged();
        walproposer.stop().await;
        assert_eq!(self.cluster.safekeepers.histories().await, histories);
    }
}

/// A server that was promoted at the end of a segment is compared on the old timeline.
#[tokio::test]
async fn promoted_primary_is_compared_on_old_timeline() {
    let mut full_segment = FullSegment::new().await;
    full_segment.promote();
    let walproposer = full_segment.cluster.start_walproposer().await;
    walproposer.until_leading().await;
    let end = full_segment.end;
    assert_eq!(
        full_segment.cluster.primary.read().streams,
        // Before the votes and behind them.
        [
            format!("{LINEAGE_START} TIMELINE 1"),
            format!("{LINEAGE_START} TIMELINE 1"),
            format!("{end} TIMELINE 2")
        ]
    );
    // The server leads again before anything was written under the new timeline, and afterwards.
    for _ in 0..2 {
        full_segment.cluster.restart_primary(&walproposer).await;
        walproposer.until_leading().await;
        full_segment.assert_writable().await;
    }
    walproposer.stop().await;
}

#[tokio::test]
async fn promoted_primary_with_other_bytes_is_refused() {
    let mut full_segment = FullSegment::new().await;
    full_segment.promote();
    full_segment.cluster.primary.change(|server| Arc::make_mut(&mut server.wal)[20_000] ^= 1);
    full_segment.assert_refused("differs from what safekeeper").await;
}

#[tokio::test]
async fn primary_without_last_segment_is_refused() {
    let full_segment = FullSegment::new().await;
    full_segment.remove_last_segment();
    full_segment.assert_refused("no longer has the last segment of the log").await;
    // A slot at another position proves nothing.
    for slot in [full_segment.end.advance(8), LINEAGE_START] {
        full_segment.cluster.primary.change(|server| {
            server.slot_restart_lsn = slot;
            server.streams.clear();
        });
        full_segment.assert_refused("set wal_keep_size on the primary").await;
    }
}

/// A primary that removed only WAL that was acknowledged to it leads: its slot stands at the end of the log.
#[tokio::test]
async fn primary_that_removed_acknowledged_segment_leads() {
    let mut full_segment = FullSegment::new().await;
    full_segment.remove_last_segment();
    full_segment.cluster.primary.change(|server| server.slot_restart_lsn = full_segment.end);
    // Written while there was no walproposer to acknowledge it.
    let unacknowledged = full_segment.cluster.write(30_000);
    let walproposer = full_segment.cluster.start_walproposer().await;
    full_segment.cluster.primary.until_acknowledged(unacknowledged).await;
    full_segment.assert_writable().await;
    let end = full_segment.end;
    assert_eq!(
        full_segment.cluster.primary.read().streams,
        [format!("{LINEAGE_START} TIMELINE 1"), format!("{end} TIMELINE 1")]
    );
    walproposer.stop().await;
}

/// On a promoted server the slot proves nothing: on a standby any client may have moved it.
#[tokio::test]
async fn promoted_primary_without_last_segment_is_refused() {
    let mut full_segment = FullSegment::new().await;
    full_segment.promote();
    full_segment.cluster.primary.change(|server| {
        server.slot_restart_lsn = full_segment.end;
        server.missing.push((Tli(1), LINEAGE_START));
    });
    full_segment.assert_refused("no longer has the last segment of the log").await;
}
