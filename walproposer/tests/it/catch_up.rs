//! Safekeepers that missed WAL.

use crate::primary::{SEGMENT_BYTES, ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::Walproposer;

const RECORD_BYTES: usize = 50_000;

/// Enough that a new term's buffer, which begins with the last segment, lacks what was written before.
const RECORDS: usize = 4 * SEGMENT_BYTES as usize / RECORD_BYTES;

#[tokio::test]
async fn a_safekeeper_that_lags_behind_the_buffer_reads_from_a_donor() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let first = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(first).await;

    safekeepers.stop(3).await;
    let mut end = first;
    for _ in 0..RECORDS {
        end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    }
    primary.acknowledged(end).await;
    // A new term: what it has in memory begins with the segment of its start.
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
    walproposer.stop().await;
    for node in 1..=3 {
        assert!(safekeepers.wal(node, end).await == *primary.read().wal, "safekeeper {node} has other bytes");
    }
}

#[tokio::test]
async fn when_only_safekeepers_without_the_newest_wal_are_left_the_primary_delivers_it_again() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let first = primary.write(&wal.noop(RECORD_BYTES).bytes);
    safekeepers.until_all_flushed(first).await;
    // 1 alone gets more than a buffer of a new term would hold.
    safekeepers.stop(2).await;
    safekeepers.stop(3).await;
    let mut end = first;
    for _ in 0..RECORDS {
        end = primary.write(&wal.noop(RECORD_BYTES).bytes);
    }
    walproposer
        .until("safekeeper 1 to have it", |status| status["safekeepers"][0]["flush_lsn"] == end.to_string())
        .await;
    safekeepers.stop(1).await;
    safekeepers.start(2).await;
    safekeepers.start(3).await;
    primary.acknowledged(end).await;
    safekeepers.start(1).await;
    safekeepers.until_all_flushed(end).await;
    walproposer.stop().await;
    for node in 1..=3 {
        assert!(safekeepers.wal(node, end).await == *primary.read().wal, "safekeeper {node} has other bytes");
    }
}
