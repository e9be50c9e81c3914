//! When commits are released, and what happens when leadership ends.

use wal_types::{Lsn, Term};

use crate::primary::{ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::{Walproposer, lsn, recover};
use crate::wire::Wire;
use std::time::Duration;

#[tokio::test]
async fn a_commit_is_acknowledged_when_a_majority_has_it_and_not_before() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.stop(2).await;
    safekeepers.stop(3).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(5000).bytes);

    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    walproposer.blocked("2 of 3 safekeepers are unreachable (2, 3): commits wait for one of them").await;
    assert_eq!(walproposer.get("/readyz").await.0, 503);
    assert!(primary.read().statuses.iter().all(|status| status.flush == Lsn::INVALID));

    safekeepers.start(2).await;
    primary.acknowledged(end).await;
    let status = walproposer.leads().await;
    assert_eq!(lsn(&status["commit_lsn"]), end);
    assert_eq!(status["term"], 1);
    assert_eq!(walproposer.get("/readyz").await.0, 200);
    let (_, metrics) = walproposer.get("/metrics").await;
    assert!(metrics.contains("holdfast_walproposer_streaming 1\n"), "{metrics}");

    // One more record, and a safekeeper that was away from the beginning.
    let end = primary.write(&wal.noop(100).bytes);
    primary.acknowledged(end).await;
    safekeepers.start(3).await;
    safekeepers.until_all_flushed(end).await;
    for status in primary.read().statuses.windows(2) {
        let all_the_same = status[1].write == status[1].flush && status[1].flush == status[1].apply;
        assert!(all_the_same && status[1].flush >= status[0].flush, "{status:?}");
    }
    walproposer.stop().await;
}

/// A wrong address must not let one safekeeper vote twice: a commit would be on one disk, and called a majority's.
#[tokio::test]
async fn one_safekeeper_under_two_numbers_is_no_majority() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let port = safekeepers.port(1);
    safekeepers.stop(2).await;
    safekeepers.stop(3).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(5000).bytes);

    let walproposer = Walproposer::start(&primary, &safekeepers.cluster_with(2, port)).await;
    let status =
        walproposer.until("a word about 2", |status| status["safekeepers"][1]["last_error"].is_string());
    let status = status.await;
    assert!(
        status["safekeepers"][1]["last_error"].as_str().unwrap().contains("safekeeper 1 answers there"),
        "{status}"
    );
    assert_ne!(status["state"], "streaming");
    assert!(primary.read().statuses.iter().all(|status| status.flush == Lsn::INVALID));
    walproposer.stop().await;

    safekeepers.start(2).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    primary.acknowledged(end).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn half_a_record_is_stored_and_not_acknowledged() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let first = primary.write(&wal.noop(100).bytes);
    let record = wal.noop(20_000).bytes;
    primary.write(&record[..10_000]);
    primary.acknowledged(first).await;
    let end = primary.write(&record[10_000..]);
    primary.acknowledged(end).await;
    let acknowledged = primary.read().statuses.into_iter().map(|status| status.flush);
    assert!(acknowledged.into_iter().all(|lsn| [Lsn::INVALID, LINEAGE_START, first, end].contains(&lsn)));
    walproposer.stop().await;
}

#[tokio::test]
async fn a_proposer_that_was_deposed_comes_back_under_a_higher_term() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(3000).bytes);
    primary.acknowledged(end).await;
    let before = walproposer.leads().await["term"].as_u64().unwrap();

    let recovered = recover(safekeepers.cluster(), Duration::from_secs(20)).await.unwrap();
    assert_eq!((recovered.end_lsn, recovered.tli), (end.to_string(), Some(1)));
    assert!(recovered.term > before);

    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    let status = walproposer.leads().await;
    assert!(status["term"].as_u64().unwrap() > recovered.term, "{status}");
    assert_eq!(safekeepers.wal(1, end).await, *primary.read().wal);
    walproposer.stop().await;
}

#[tokio::test]
async fn a_primary_that_is_down_is_waited_for_without_an_election() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(3000).bytes);
    primary.acknowledged(end).await;
    assert_eq!(walproposer.leads().await["term"], 1);

    primary.kill().await;
    walproposer.blocked("primary is down").await;
    primary.change(|server| server.status = None);
    primary.restart().await;
    let end = primary.write(&wal.noop(3000).bytes);
    primary.acknowledged(end).await;
    // Any campaign while the primary was down would have spent a term.
    assert_eq!(walproposer.leads().await["term"], 2);
    walproposer.stop().await;
}

#[tokio::test]
async fn safekeepers_that_come_back_are_followed_again_in_the_same_term() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    for node in [1, 2, 3, 1] {
        let end = primary.write(&wal.noop(3000).bytes);
        primary.acknowledged(end).await;
        safekeepers.stop(node).await;
        let end = primary.write(&wal.noop(3000).bytes);
        primary.acknowledged(end).await;
        safekeepers.start(node).await;
        safekeepers.until_all_flushed(end).await;
    }
    assert_eq!(walproposer.leads().await["term"], 1);
    walproposer.stop().await;
}

#[tokio::test]
async fn a_slow_safekeeper_with_a_higher_term_deposes_one_leader_and_not_the_next() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.promise(3, Term(50)).await;
    let wire = Wire::slow(safekeepers.port(3)).await;
    let cluster = safekeepers.cluster_with(3, wire.port);
    let walproposer = Walproposer::start(&primary, &cluster).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    assert_eq!(walproposer.leads().await["term"], 1);

    wire.deliver();
    walproposer.until("another term", |status| status["term"].as_u64().is_some_and(|term| term > 1)).await;
    assert_eq!(walproposer.leads().await["term"], 51);
    wire.deliver();
    let end = primary.write(&wal.noop(300).bytes);
    safekeepers.until_all_flushed(end).await;
    assert_eq!(walproposer.leads().await["term"], 51);
    walproposer.stop().await;
}
