//! Two walproposers for one log, of which one has a primary with other WAL.

use std::sync::Arc;
use std::time::Duration;

use candidacy::RetryDelays;

use crate::support::{LINEAGE_START, ScriptedPrimary, TestCluster, Walproposer};

/// A cluster that is led, and a clone of its primary that was rolled back and has written other WAL since.
async fn led_cluster_and_clone() -> (TestCluster, Walproposer, ScriptedPrimary) {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    let end = cluster.write_acknowledged(30_000).await;
    // A survey compares what is known to be committed.
    cluster.safekeepers.until_all_know_commit(end).await;

    let clone = ScriptedPrimary::start(LINEAGE_START).await;
    let mut wal = cluster.primary.read().wal.to_vec();
    let middle = wal.len() / 2;
    wal[middle] ^= 1;
    wal.extend_from_slice(&[0; 8192]);
    clone.change(|server| server.wal = Arc::new(wal));
    (cluster, walproposer, clone)
}

/// A primary with other WAL finds that out before it spends a term, says so, and stays away for minutes.
#[tokio::test]
async fn diverged_rival_spends_no_term() {
    let (mut cluster, leader, clone) = led_cluster_and_clone().await;
    let term = leader.until_leading().await["term"].clone();
    let rival = Walproposer::start(&clone, cluster.safekeepers.cluster()).await;

    let refused = rival.until_blocked("differs from what safekeeper").await;
    let status = rival.until("a rival that stays away", |status| status["stays_away_s"].is_u64()).await;
    assert!(status["stays_away_s"].as_u64().unwrap() > 60, "{status}");
    assert!(status["blocked"].as_str().unwrap().contains("stays away for"), "{status}");
    assert!(refused["term"].is_null(), "{refused}");

    cluster.write_acknowledged(1000).await;
    assert_eq!(leader.status().await["term"], term, "the leader was deposed");
    rival.stop().await;
    leader.stop().await;
}

/// A rival that stays away tries again as soon as its server was restarted: it may have been rewound.
#[tokio::test]
async fn restarted_rival_is_compared_again() {
    let (cluster, leader, clone) = led_cluster_and_clone().await;
    let rival = Walproposer::start(&clone, cluster.safekeepers.cluster()).await;
    rival.until("a rival that stays away", |status| status["stays_away_s"].is_u64()).await;
    leader.stop().await;

    clone.kill().await;
    clone.change(|server| server.wal = cluster.primary.read().wal);
    clone.restart().await;
    rival.until_leading().await;
    rival.stop().await;
}

/// A rival that nothing changes comes back by itself when the time is over.
#[tokio::test]
async fn rival_stays_away_only_for_a_time() {
    let (cluster, leader, clone) = led_cluster_and_clone().await;
    let short = Duration::from_millis(50);
    let delays = RetryDelays { diverged_min: short, diverged_max: short };
    let rival = Walproposer::start_with_delays(&clone, cluster.safekeepers.cluster(), delays).await;
    clone.until("three comparisons", |server| server.streams.len() >= 3).await;
    rival.stop().await;
    leader.stop().await;
}
