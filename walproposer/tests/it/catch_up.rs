//! Lagging safekeepers: WAL that left the buffer comes from a donor, or from the primary in a new term.

use crate::support::{LINEAGE_START, Relay, TestCluster, Walproposer};

const RECORD_BYTES: usize = 50_000;
/// A buffer that holds a quarter of the WAL that is written while a safekeeper is away.
const SMALL_BUFFER_BYTES: u64 = 1024 * 1024;
const RECORDS: usize = 4 * SMALL_BUFFER_BYTES as usize / RECORD_BYTES;

/// A safekeeper that missed more WAL than the buffer holds.
#[tokio::test]
async fn lagging_safekeeper_reads_from_donor() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer_with_buffer(SMALL_BUFFER_BYTES).await;
    cluster.write_flushed(RECORD_BYTES).await;

    cluster.safekeepers.stop(3).await;
    for _ in 0..RECORDS {
        cluster.write_acknowledged(RECORD_BYTES).await;
    }
    cluster.safekeepers.start(3).await;
    cluster.write_flushed(RECORD_BYTES).await;
    assert_eq!(walproposer.until_leading().await["term"], 1);
    cluster.assert_same_wal(1..=3).await;
    walproposer.stop().await;
}

/// A safekeeper that missed WAL of earlier terms: a new leader has in memory only the segment of its start.
#[tokio::test]
async fn lagging_safekeeper_reads_earlier_terms_from_donor() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    cluster.write_flushed(RECORD_BYTES).await;

    cluster.safekeepers.stop(3).await;
    let end = cluster.write_many(RECORDS, RECORD_BYTES);
    cluster.primary.until_acknowledged(end).await;
    cluster.restart_primary(&walproposer).await;
    cluster.primary.until_acknowledged(end).await;
    let stream = cluster.primary.read().streams.last().unwrap().clone();
    assert_ne!(stream.split(' ').next().unwrap(), LINEAGE_START.to_string());

    cluster.safekeepers.start(3).await;
    cluster.safekeepers.until_all_flushed(end).await;
    // The safekeeper takes part afterwards.
    cluster.write_flushed(RECORD_BYTES).await;
    assert_eq!(walproposer.until_leading().await["term"], 2);
    cluster.assert_same_wal(1..=3).await;
    walproposer.stop().await;
}

/// When the only safekeeper with some WAL is gone, the primary delivers that WAL again in a new term.
#[tokio::test]
async fn wal_without_donor_comes_from_primary_again() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer_with_buffer(SMALL_BUFFER_BYTES).await;
    let first = cluster.write_flushed(RECORD_BYTES).await;
    cluster.primary.until_acknowledged(first).await;

    // Safekeeper 1 alone receives more than the buffer holds.
    cluster.safekeepers.stop(2).await;
    cluster.safekeepers.stop(3).await;
    let end = cluster.write_many(RECORDS, RECORD_BYTES);
    walproposer
        .until("safekeeper 1 to have the WAL", |status| {
            status["safekeepers"][0]["flush_lsn"] == end.to_string()
        })
        .await;
    assert_eq!(cluster.primary.read().status.unwrap().flush, first);

    cluster.safekeepers.stop(1).await;
    cluster.safekeepers.start(2).await;
    cluster.safekeepers.start(3).await;
    cluster.primary.until_acknowledged(end).await;
    assert_eq!(walproposer.until_leading().await["term"], 2);
    cluster.safekeepers.start(1).await;
    cluster.safekeepers.until_all_flushed(end).await;
    cluster.assert_same_wal(1..=3).await;
    walproposer.stop().await;
}

/// The donor vanishes without closing its connections.
#[tokio::test]
async fn another_donor_is_read_when_one_vanishes() {
    let mut cluster = TestCluster::start(3).await;
    // Of the safekeepers with the same WAL, the one with the highest id is the donor.
    let relay = Relay::fast(cluster.safekeepers.port(2)).await;
    let addresses = cluster.safekeepers.cluster_with(2, relay.port);
    let walproposer = Walproposer::start_with_buffer(&cluster.primary, &addresses, SMALL_BUFFER_BYTES).await;
    cluster.write_flushed(RECORD_BYTES).await;
    cluster.safekeepers.stop(3).await;
    let end = cluster.write_many(RECORDS, RECORD_BYTES);
    cluster.primary.until_acknowledged(end).await;
    cluster.safekeepers.until_all_flushed(end).await;

    relay.slow_down();
    cluster.safekeepers.start(3).await;
    relay.until_wal_requested().await;
    relay.cut();
    cluster.write_acknowledged(RECORD_BYTES).await;
    assert_eq!(walproposer.until_leading().await["term"], 1);
    walproposer.stop().await;
}
