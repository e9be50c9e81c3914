//! Safekeepers that missed WAL.

use crate::primary::{ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::Walproposer;
use crate::wire::Wire;

const RECORD_BYTES: usize = 50_000;
/// A buffer that holds a quarter of what is written while a safekeeper is away.
const SMALL_BUFFER_BYTES: u64 = 1024 * 1024;
const RECORDS: usize = 4 * SMALL_BUFFER_BYTES as usize / RECORD_BYTES;

#[tokio::test]
async fn a_safekeeper_that_missed_more_than_the_buffer_holds_reads_from_a_donor() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let cluster = safekeepers.cluster().clone();
    let mut wal = builder(LINEAGE_START);
    let walproposer = Walproposer::start_with_buffer(&primary, &cluster, SMALL_BUFFER_BYTES).await;
    let first = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(first).await;

    safekeepers.stop(3).await;
    for _ in 0..RECORDS {
        let end = primary.write(&wal.noop(RECORD_BYTES).bytes);
        primary.acknowledged(end).await;
    }
    safekeepers.start(3).await;
    let end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(end).await;
    assert_eq!(walproposer.leads().await["term"], 1);
    assert_same_wal(&primary, &safekeepers).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn a_safekeeper_that_missed_earlier_terms_reads_them_from_a_donor() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let mut end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(end).await;

    safekeepers.stop(3).await;
    for _ in 0..RECORDS {
        end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    }
    primary.acknowledged(end).await;
    // What a new term has in memory begins with the segment of its start.
    primary.kill().await;
    walproposer.blocked("primary is down").await;
    primary.change(|server| server.status = None);
    primary.restart().await;
    primary.acknowledged(end).await;
    let begun = primary.read().streams.last().unwrap().clone();
    assert_ne!(begun.split(' ').next().unwrap(), LINEAGE_START.to_string());

    safekeepers.start(3).await;
    safekeepers.until_all_flushed(end).await;
    // It takes part afterwards.
    let end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(end).await;
    assert_eq!(walproposer.leads().await["term"], 2);
    assert_same_wal(&primary, &safekeepers).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn when_the_only_holder_is_gone_the_primary_delivers_the_wal_again_in_a_new_term() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let cluster = safekeepers.cluster().clone();
    let walproposer = Walproposer::start_with_buffer(&primary, &cluster, SMALL_BUFFER_BYTES).await;
    let mut wal = builder(LINEAGE_START);
    let first = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(first).await;
    primary.acknowledged(first).await;

    // 1 alone gets more than the buffer holds.
    safekeepers.stop(2).await;
    safekeepers.stop(3).await;
    let mut end = first;
    for _ in 0..RECORDS {
        end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    }
    walproposer
        .until("safekeeper 1 to have it", |status| status["safekeepers"][0]["flush_lsn"] == end.to_string())
        .await;
    assert_eq!(primary.read().status.unwrap().flush, first);
    safekeepers.stop(1).await;
    safekeepers.start(2).await;
    safekeepers.start(3).await;
    primary.acknowledged(end).await;
    assert_eq!(walproposer.leads().await["term"], 2);
    safekeepers.start(1).await;
    safekeepers.until_all_flushed(end).await;
    assert_same_wal(&primary, &safekeepers).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn when_the_donor_vanishes_without_a_word_another_one_is_read() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    // Of those with the same WAL the one with the highest number is the donor.
    let wire = Wire::fast(safekeepers.port(2)).await;
    let cluster = safekeepers.cluster_with(2, wire.port);
    let walproposer = Walproposer::start_with_buffer(&primary, &cluster, SMALL_BUFFER_BYTES).await;
    let mut wal = builder(LINEAGE_START);
    let mut end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(end).await;
    safekeepers.stop(3).await;
    for _ in 0..RECORDS {
        end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    }
    primary.acknowledged(end).await;
    safekeepers.until_all_flushed(end).await;

    wire.slow_down();
    safekeepers.start(3).await;
    wire.until_read().await;
    wire.die();
    let end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    primary.acknowledged(end).await;
    assert_eq!(walproposer.leads().await["term"], 1);
    walproposer.stop().await;
}

async fn assert_same_wal(primary: &ScriptedPrimary, safekeepers: &Safekeepers) {
    let server = primary.read();
    for node in 1..=3 {
        let stored = safekeepers.wal(node, server.flush_lsn()).await;
        assert!(stored == *server.wal, "safekeeper {node} has other bytes than the primary");
    }
}
