//! Acknowledgement of commits by a majority, and what follows when a leadership ends.

use std::time::Duration;

use wal_types::{Lsn, Term};

use crate::support::safekeepers::lsn;
use crate::support::{LINEAGE_START, Relay, TestCluster, Walproposer, recover};

/// Nothing is acknowledged before a majority has it.
#[tokio::test]
async fn commit_is_acknowledged_by_majority() {
    let mut cluster = TestCluster::start(3).await;
    cluster.safekeepers.stop(2).await;
    cluster.safekeepers.stop(3).await;
    let end = cluster.write(5000);

    let walproposer = cluster.start_walproposer().await;
    walproposer
        .until_blocked("2 of 3 safekeepers are unreachable (2, 3): commits wait for one of them")
        .await;
    assert_eq!(walproposer.get("/readyz").await.0, 503);
    cluster.assert_nothing_acknowledged();

    cluster.safekeepers.start(2).await;
    cluster.primary.until_acknowledged(end).await;
    let status = walproposer.until_leading().await;
    assert_eq!(lsn(&status["commit_lsn"]), end);
    assert_eq!(status["term"], 1);
    assert_eq!(walproposer.get("/readyz").await.0, 200);
    let (_, metrics) = walproposer.get("/metrics").await;
    assert!(metrics.contains("holdfast_walproposer_streaming 1\n"), "{metrics}");

    // One more record, and a safekeeper that was away from the beginning.
    let end = cluster.write_acknowledged(100).await;
    cluster.safekeepers.start(3).await;
    cluster.safekeepers.until_all_flushed(end).await;
    for status in cluster.primary.read().statuses.windows(2) {
        let all_the_same = status[1].write == status[1].flush && status[1].flush == status[1].apply;
        assert!(all_the_same && status[1].flush >= status[0].flush, "{status:?}");
    }
    walproposer.stop().await;
}

/// A wrong address must not let one safekeeper vote twice: a commit would be on one disk, and count as a majority's.
#[tokio::test]
async fn safekeeper_under_two_ids_is_no_majority() {
    let mut cluster = TestCluster::start(3).await;
    let port = cluster.safekeepers.port(1);
    cluster.safekeepers.stop(2).await;
    cluster.safekeepers.stop(3).await;
    let end = cluster.write(5000);

    let addresses = cluster.safekeepers.cluster_with(2, port);
    let walproposer = Walproposer::start(&cluster.primary, &addresses).await;
    let status = walproposer
        .until("an error of safekeeper 2", |status| status["safekeepers"][1]["last_error"].is_string())
        .await;
    let error = status["safekeepers"][1]["last_error"].as_str().unwrap();
    assert!(error.contains("safekeeper 1 answers there"), "{status}");
    assert_ne!(status["state"], "streaming");
    cluster.assert_nothing_acknowledged();
    walproposer.stop().await;

    cluster.safekeepers.start(2).await;
    let walproposer = cluster.start_walproposer().await;
    cluster.primary.until_acknowledged(end).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn partial_record_is_stored_but_not_acknowledged() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    let first = cluster.write(100);
    let record = cluster.wal.noop(20_000).bytes;
    cluster.primary.write(&record[..10_000]);
    cluster.primary.until_acknowledged(first).await;
    let end = cluster.primary.write(&record[10_000..]);
    cluster.primary.until_acknowledged(end).await;
    let acknowledged = cluster.primary.read().statuses.into_iter().map(|status| status.flush);
    assert!(acknowledged.into_iter().all(|lsn| [Lsn::INVALID, LINEAGE_START, first, end].contains(&lsn)));
    walproposer.stop().await;
}

#[tokio::test]
async fn deposed_leader_returns_under_higher_term() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    let end = cluster.write_acknowledged(3000).await;
    let before = walproposer.until_leading().await["term"].as_u64().unwrap();

    let recovered = recover(cluster.safekeepers.cluster(), Duration::from_secs(20)).await.unwrap();
    assert_eq!((recovered.end_lsn, recovered.tli), (end.to_string(), Some(1)));
    assert!(recovered.term > before);

    cluster.write_acknowledged(300).await;
    let status = walproposer.until_leading().await;
    assert!(status["term"].as_u64().unwrap() > recovered.term, "{status}");
    cluster.assert_same_wal([1]).await;
    walproposer.stop().await;
}

/// While the primary is down there is no election.
#[tokio::test]
async fn primary_down_costs_no_term() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    cluster.write_acknowledged(3000).await;
    assert_eq!(walproposer.until_leading().await["term"], 1);

    cluster.restart_primary(&walproposer).await;
    cluster.write_acknowledged(3000).await;
    // Any campaign while the primary was down would have spent a term.
    assert_eq!(walproposer.until_leading().await["term"], 2);
    walproposer.stop().await;
}

#[tokio::test]
async fn returning_safekeeper_follows_in_same_term() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    for node in [1, 2, 3, 1] {
        cluster.write_acknowledged(3000).await;
        cluster.safekeepers.stop(node).await;
        let end = cluster.write_acknowledged(3000).await;
        cluster.safekeepers.start(node).await;
        cluster.safekeepers.until_all_flushed(end).await;
    }
    assert_eq!(walproposer.until_leading().await["term"], 1);
    walproposer.stop().await;
}

/// A slow safekeeper that has promised a higher term deposes one leader, and not the next one.
#[tokio::test]
async fn slow_safekeeper_with_higher_term_deposes_once() {
    let mut cluster = TestCluster::start(3).await;
    cluster.safekeepers.promise_term(3, Term(50)).await;
    let relay = Relay::slow(cluster.safekeepers.port(3)).await;
    let addresses = cluster.safekeepers.cluster_with(3, relay.port);
    let walproposer = Walproposer::start(&cluster.primary, &addresses).await;
    cluster.write_acknowledged(300).await;
    assert_eq!(walproposer.until_leading().await["term"], 1);

    relay.deliver();
    walproposer.until("another term", |status| status["term"].as_u64().is_some_and(|term| term > 1)).await;
    assert_eq!(walproposer.until_leading().await["term"], 51);
    relay.deliver();
    cluster.write_flushed(300).await;
    assert_eq!(walproposer.until_leading().await["term"], 51);
    walproposer.stop().await;
}
