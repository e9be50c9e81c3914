//! `walproposer recover`.

use std::time::Duration;

use crate::primary::{ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::{Walproposer, recover};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn it_tells_the_end_and_leaves_a_quorum_that_knows_it_is_committed() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let first = primary.write(&wal.noop(3000).bytes);
    safekeepers.until_all_flushed(first).await;
    safekeepers.stop(3).await;
    let end = primary.write(&wal.noop(300_000).bytes);
    primary.acknowledged(end).await;
    walproposer.stop().await;

    // 1 is gone for good; 3 never had the second record.
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
async fn an_empty_log_ends_where_it_begins() {
    let safekeepers = Safekeepers::create(3).await;
    let recovered = recover(safekeepers.cluster(), LONG).await.unwrap();
    assert_eq!((recovered.end_lsn, recovered.tli), (LINEAGE_START.to_string(), None));
}

#[tokio::test]
async fn without_a_quorum_it_says_who_is_missing() {
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.stop(1).await;
    safekeepers.stop(3).await;
    let error = recover(safekeepers.cluster(), Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains("not settled within 1s"), "{error}");
    assert!(error.contains("safekeeper 1 at ") && error.contains("safekeeper 3 at "), "{error}");
}
