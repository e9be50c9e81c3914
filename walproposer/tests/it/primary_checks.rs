//! Primaries that must not lead, and the sentence that says why.

use std::sync::Arc;

use wal_types::{Lsn, Tli};

use crate::primary::{ScriptedPrimary, Server, builder, builder_on};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::Walproposer;

/// A quorum has everything that the primary wrote; then walproposer and primary were stopped.
async fn a_stored_log() -> (ScriptedPrimary, Safekeepers, Lsn) {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(3).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(30_000).bytes);
    safekeepers.until_all_flushed(end).await;
    primary.acknowledged(end).await;
    walproposer.stop().await;
    primary.change(|server| {
        server.status = None;
        server.statuses.clear();
    });
    (primary, safekeepers, end)
}

/// The primary, changed, is refused in words that contain `words`, and changes nothing.
async fn is_refused(change: impl FnOnce(&mut Server), words: &str) {
    let (primary, safekeepers, end) = a_stored_log().await;
    let stored = safekeepers.wal(1, end).await;
    let histories = safekeepers.histories().await;
    primary.change(change);
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    walproposer.blocked(words).await;
    assert!(primary.read().statuses.iter().all(|status| status.flush == Lsn::INVALID), "acknowledged");
    walproposer.stop().await;
    // Terms may have been spent, but nobody was told to follow.
    assert_eq!(safekeepers.histories().await, histories);
    assert!(safekeepers.wal(1, end).await == stored, "the log was changed");
}

#[tokio::test]
async fn one_with_other_bytes_in_the_last_segment() {
    is_refused(
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
async fn one_that_lost_the_end_of_its_wal() {
    is_refused(
        |server| {
            let shorter = server.wal.len() - 8;
            Arc::make_mut(&mut server.wal).truncate(shorter);
        },
        "it lacks WAL that may be committed",
    )
    .await;
}

#[tokio::test]
async fn one_that_was_promoted_with_other_wal() {
    is_refused(
        |server| {
            server.tli = Tli(2);
            server.history = Some(format!("1\t{}\tno recovery target specified\n", LINEAGE_START.advance(8)));
        },
        "does not begin at the end of the log",
    )
    .await;
}

#[tokio::test]
async fn one_that_was_promoted_at_the_end_of_the_log_leads() {
    let (primary, safekeepers, end) = a_stored_log().await;
    primary.change(|server| {
        server.tli = Tli(2);
        server.history = Some(format!("1\t{end}\tno recovery target specified\n"));
    });
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    walproposer.leads().await;
    primary.acknowledged(end).await;
    assert!(primary.read().streams.last().unwrap().ends_with("TIMELINE 2"));
    // A server that was promoted writes at once. The only record so far begins behind the header of its page.
    let written = primary.write(&builder_on(Tli(2), end, LINEAGE_START.advance(40)).noop(100).bytes);
    primary.acknowledged(written).await;
    walproposer.stop().await;

    // And the one that it replaced no longer does.
    primary.change(|server| server.tli = Tli::FIRST);
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    walproposer.blocked("the primary is on timeline 1, the log already on 2").await;
    walproposer.stop().await;
}

#[tokio::test]
async fn one_whose_settings_or_slot_do_not_fit_is_refused_in_one_sentence() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(1).await;
    let walproposer = Walproposer::start(&primary, safekeepers.cluster()).await;
    walproposer.leads().await;
    for (setting, value, words) in [
        ("fsync", "off", "fsync is off on the primary"),
        ("full_page_writes", "off", "full_page_writes is off"),
        ("wal_level", "minimal", "wal_level must be replica or logical"),
        ("in_hot_standby", "on", "this server is a standby"),
    ] {
        primary.kill().await;
        primary.change(|server| server.settings = vec![(setting, value)]);
        primary.restart().await;
        walproposer.blocked(words).await;
    }
    primary.change(|server| {
        server.settings.clear();
        server.slot = false;
    });
    walproposer.blocked("pg_create_physical_replication_slot('wp', true)").await;
    primary.change(|server| server.slot = true);
    walproposer.leads().await;
    walproposer.stop().await;
}
