//! Primaries that must not lead, and the reason in the status.

use std::sync::Arc;

use wal_types::{Lsn, Tli};

use crate::support::primary::{PrimaryState, builder_on};
use crate::support::{LINEAGE_START, TestCluster};

/// A cluster with some WAL on all safekeepers, after the walproposer was stopped; and the end of the WAL.
async fn stored_log() -> (TestCluster, Lsn) {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    let end = cluster.write_flushed(30_000).await;
    cluster.primary.until_acknowledged(end).await;
    walproposer.stop().await;
    cluster.primary.forget_connections();
    (cluster, end)
}

/// Changes the primary of a stored log. Fails unless it is refused for a reason that contains `words`, and changes nothing.
async fn assert_refused(change: impl FnOnce(&mut PrimaryState), words: &str) {
    let (cluster, end) = stored_log().await;
    let stored = cluster.safekeepers.wal(1, end).await;
    let histories = cluster.safekeepers.histories().await;
    cluster.primary.change(change);
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_blocked(words).await;
    cluster.assert_nothing_acknowledged();
    walproposer.stop().await;
    // Terms may have been spent, but no safekeeper was told to follow.
    assert_eq!(cluster.safekeepers.histories().await, histories);
    assert!(cluster.safekeepers.wal(1, end).await == stored, "the log was changed");
}

#[tokio::test]
async fn primary_with_other_bytes_is_refused() {
    assert_refused(
        |server| {
            let wal = Arc::make_mut(&mut server.wal);
            let middle = wal.len() / 2;
            wal[middle] ^= 1;
        },
        "differs from what safekeeper",
    )
    .await;
}

#[tokio::test]
async fn primary_without_end_of_log_is_refused() {
    assert_refused(
        |server| {
            let shorter = server.wal.len() - 8;
            Arc::make_mut(&mut server.wal).truncate(shorter);
        },
        "the primary lacks WAL that may be committed",
    )
    .await;
}

#[tokio::test]
async fn primary_promoted_elsewhere_is_refused() {
    assert_refused(
        |server| {
            server.tli = Tli(2);
            server.history = Some(format!("1\t{}\tno recovery target specified\n", LINEAGE_START.advance(8)));
        },
        "does not begin at the end of the log",
    )
    .await;
}

#[tokio::test]
async fn primary_promoted_at_end_of_log_leads() {
    let (cluster, end) = stored_log().await;
    let primary = &cluster.primary;
    primary.change(|server| {
        server.tli = Tli(2);
        server.history = Some(format!("1\t{end}\tno recovery target specified\n"));
    });
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_leading().await;
    primary.until_acknowledged(end).await;
    assert!(primary.read().streams.last().unwrap().ends_with("TIMELINE 2"));
    // A server that was promoted writes at once. The only record so far begins behind the header of its page.
    let written = primary.write(&builder_on(Tli(2), end, LINEAGE_START.advance(40)).noop(100).bytes);
    primary.until_acknowledged(written).await;
    walproposer.stop().await;

    // The server that it replaced no longer leads.
    primary.change(|server| server.tli = Tli::FIRST);
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_blocked("the primary is on timeline 1, the log already on 2").await;
    walproposer.stop().await;
}

#[tokio::test]
async fn primary_with_unfit_settings_is_refused() {
    let cluster = TestCluster::start(1).await;
    let primary = &cluster.primary;
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_leading().await;
    for (setting, value, words) in [
        ("fsync", "off", "fsync is off on the primary"),
        ("full_page_writes", "off", "full_page_writes is off"),
        ("wal_level", "minimal", "wal_level must be replica or logical"),
        ("in_hot_standby", "on", "this server is a standby"),
    ] {
        primary.kill().await;
        primary.change(|server| server.settings = vec![(setting, value)]);
        primary.restart().await;
        walproposer.until_blocked(words).await;
    }
    primary.change(|server| {
        server.settings.clear();
        server.slot = false;
    });
    walproposer.until_blocked("pg_create_physical_replication_slot('wp', true)").await;
    primary.change(|server| server.slot = true);
    walproposer.until_leading().await;
    walproposer.stop().await;
}
