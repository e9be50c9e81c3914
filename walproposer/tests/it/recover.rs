//! `walproposer recover`: result, persistence on a quorum, and the error without one.

use std::time::Duration;

use crate::support::{LINEAGE_START, Safekeepers, TestCluster, recover};

const LONG: Duration = Duration::from_secs(30);

/// After a recovery a quorum has persisted that everything below the end is committed.
#[tokio::test]
async fn recover_persists_commit_position_on_quorum() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    cluster.write_flushed(3000).await;
    cluster.safekeepers.stop(3).await;
    let end = cluster.write_acknowledged(300_000).await;
    walproposer.stop().await;

    // Safekeeper 1 is gone for good; safekeeper 3 never had the second record.
    let TestCluster { primary, mut safekeepers, .. } = cluster;
    safekeepers.stop(1).await;
    safekeepers.start(3).await;
    let recovered = recover(safekeepers.cluster(), LONG).await.unwrap();
    assert_eq!(recovered.end_lsn, end.to_string());
    for node in [2, 3] {
        assert_eq!(safekeepers.persisted_commit(node).await, end, "safekeeper {node}");
        assert!(safekeepers.wal(node, end).await == *primary.read().wal);
    }
    let again = recover(safekeepers.cluster(), LONG).await.unwrap();
    assert_eq!((&again.end_lsn, again.term), (&recovered.end_lsn, recovered.term + 1));
}

#[tokio::test]
async fn recover_of_empty_log_returns_its_start() {
    let safekeepers = Safekeepers::create(3).await;
    let recovered = recover(safekeepers.cluster(), LONG).await.unwrap();
    assert_eq!((recovered.end_lsn, recovered.tli), (LINEAGE_START.to_string(), None));
}

#[tokio::test]
async fn recover_without_quorum_names_missing_safekeepers() {
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.stop(1).await;
    safekeepers.stop(3).await;
    let error = recover(safekeepers.cluster(), Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains("not settled within 1s"), "{error}");
    assert!(error.contains("safekeeper 1 at ") && error.contains("safekeeper 3 at "), "{error}");
}
