//! Logs that end exactly with a segment: the primary may have no file with their last byte.

use std::sync::Arc;

use wal_format::WalBuilder;
use wal_types::{Lsn, Tli};

use crate::primary::{SEGMENT_BYTES, ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::Walproposer;

/// A quorum has everything that the primary wrote, the last of which was a switch to a new segment; then the walproposer
/// was stopped.
struct Stored {
    primary: ScriptedPrimary,
    safekeepers: Safekeepers,
    wal: WalBuilder,
    end: Lsn,
}

impl Stored {
    async fn new() -> Self {
        let primary = ScriptedPrimary::start(LINEAGE_START).await;
        let safekeepers = Safekeepers::create(3).await;
        let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
        let mut wal = builder(LINEAGE_START);
        primary.write(&wal.noop(30_000).bytes);
        let end = primary.write(&wal.switch().bytes);
        assert_eq!(end, LINEAGE_START.advance(SEGMENT_BYTES.into()));
        safekeepers.until_all_flushed(end).await;
        primary.acknowledged(end).await;
        walproposer.stop().await;
        primary.change(|server| {
            server.status = None;
            server.statuses.clear();
            server.streams.clear();
        });
        Self { primary, safekeepers, wal, end }
    }

    /// Another server takes over at the end of the log. It has what it was sent under the old timeline, and begins the
    /// new one with a new segment.
    fn promote(&mut self) {
        self.wal.set_tli(Tli(2));
        self.primary.change(|server| {
            server.tli = Tli(2);
            server.history = Some(format!("1\t{}\tno recovery target specified\n", self.end));
            server.missing = vec![(Tli(2), LINEAGE_START)];
        });
    }

    /// The primary has removed the last segment of the log.
    fn remove_last_segment(&self) {
        self.primary.change(|server| server.missing = vec![(Tli(1), LINEAGE_START)]);
    }

    async fn write_and_be_acknowledged(&mut self) {
        let end = self.primary.write(&self.wal.noop(30_000).bytes);
        self.primary.acknowledged(end).await;
        self.safekeepers.until_all_flushed(end).await;
        let written = self.primary.read().wal;
        assert!(self.safekeepers.wal(2, end).await == *written, "a safekeeper has other bytes");
    }

    /// Says `words`, acknowledges nothing and tells nobody to follow, through several turns.
    async fn is_refused(&self, words: &str) {
        let histories = self.safekeepers.histories().await;
        let walproposer = Walproposer::start(&self.primary, self.safekeepers.cluster()).await;
        self.primary.until("three turns", |server| server.streams.len() >= 3).await;
        walproposer.blocked(words).await;
        let statuses = self.primary.read().statuses;
        assert!(statuses.iter().all(|status| status.flush == Lsn::INVALID), "acknowledged");
        walproposer.stop().await;
        assert_eq!(self.safekeepers.histories().await, histories);
    }
}

#[tokio::test]
async fn a_server_that_was_promoted_there_is_compared_on_the_old_timeline() {
    let mut stored = Stored::new().await;
    stored.promote();
    let walproposer = Walproposer::start(&stored.primary, stored.safekeepers.cluster()).await;
    walproposer.leads().await;
    let end = stored.end;
    assert_eq!(
        stored.primary.read().streams,
        [format!("{LINEAGE_START} TIMELINE 1"), format!("{end} TIMELINE 2")]
    );
    // It leads again before anything was written under the new timeline, and afterwards.
    for _ in 0..2 {
        stored.primary.kill().await;
        walproposer.blocked("primary is down").await;
        stored.primary.change(|server| server.status = None);
        stored.primary.restart().await;
        walproposer.leads().await;
        stored.write_and_be_acknowledged().await;
    }
    walproposer.stop().await;
}

#[tokio::test]
async fn a_server_that_was_promoted_there_with_other_bytes_is_refused() {
    let mut stored = Stored::new().await;
    stored.promote();
    stored.primary.change(|server| Arc::make_mut(&mut server.wal)[20_000] ^= 1);
    stored.is_refused("differs from what safekeeper").await;
}

#[tokio::test]
async fn a_primary_that_removed_the_last_segment_is_refused() {
    let stored = Stored::new().await;
    stored.remove_last_segment();
    stored.is_refused("no longer has the last segment of the log").await;
    // A slot that stands elsewhere proves nothing.
    for slot in [stored.end.advance(8), LINEAGE_START] {
        stored.primary.change(|server| {
            server.slot_restart_lsn = slot;
            server.streams.clear();
        });
        stored.is_refused("set wal_keep_size on the primary").await;
    }
}

#[tokio::test]
async fn a_primary_that_removed_what_it_was_told_is_stored_leads() {
    let mut stored = Stored::new().await;
    stored.remove_last_segment();
    stored.primary.change(|server| server.slot_restart_lsn = stored.end);
    // Written while nobody was there to acknowledge it.
    let unacknowledged = stored.primary.write(&stored.wal.noop(30_000).bytes);
    let walproposer = Walproposer::start(&stored.primary, stored.safekeepers.cluster()).await;
    stored.primary.acknowledged(unacknowledged).await;
    stored.write_and_be_acknowledged().await;
    let end = stored.end;
    assert_eq!(
        stored.primary.read().streams,
        [format!("{LINEAGE_START} TIMELINE 1"), format!("{end} TIMELINE 1")]
    );
    walproposer.stop().await;
}

#[tokio::test]
async fn a_promoted_server_whose_slot_stands_there_is_refused_without_the_last_segment() {
    let mut stored = Stored::new().await;
    stored.promote();
    stored.primary.change(|server| {
        // On a standby anybody may have moved it.
        server.slot_restart_lsn = stored.end;
        server.missing.push((Tli(1), LINEAGE_START));
    });
    stored.is_refused("no longer has the last segment of the log").await;
}
