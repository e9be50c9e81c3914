//! Full disks: what the walproposer says, and that votes and reads go on after a restart of everything.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::primary::SEGMENT_BYTES;
use crate::support::safekeepers::lsn;
use crate::support::{SmallDisk, TestCluster, eventually};

/// Room for some segments of 1 MiB, one of which is set aside.
const DISK_BYTES: u64 = 12 << 20;
const RECORD_BYTES: usize = 100_000;

/// Waits until the room of one segment is set aside on each safekeeper: more would be over a tenth of the disk.
async fn until_reserved(cluster: &TestCluster) {
    for node in 1..=3 {
        eventually("room that is set aside", async || {
            let disk = cluster.safekeepers.own_status(node).await["disk"].take();
            let is_whole = disk["reserve_files"] == 1 && disk["reserve_files_wanted"] == 1;
            if is_whole { Ok(()) } else { Err(disk.to_string()) }
        })
        .await;
    }
}

/// Two of three disks are full: the answers of their safekeepers go on, and `blocked` and `/readyz` say what is wrong. Then
/// all three are full and restart: they vote, a leader is elected, and readers get what is committed. With room all goes on.
#[tokio::test]
async fn full_disks_are_named_and_elect_after_restart() {
    let directory = tempfile::tempdir().unwrap();
    let disks =
        [1, 2, 3].map(|node| SmallDisk::mount(&directory.path().join(format!("sk{node}")), DISK_BYTES));
    let [Some(one), Some(two), Some(three)] = disks else { return };
    let mut cluster = TestCluster::start_in(directory).await;
    let walproposer = cluster.start_walproposer().await;
    let committed = cluster.write_acknowledged(RECORD_BYTES).await;
    until_reserved(&cluster).await;

    one.fill();
    // The third goes on: it does not make a majority.
    two.fill();
    let end = cluster.write_many(25, RECORD_BYTES);
    walproposer.until_blocked("2 of 3 safekeepers have no room (1, 2)").await;
    let (code, text) = walproposer.get("/readyz").await;
    assert!(code == 503 && text.contains("have no room"), "{code} {text}");
    let status = walproposer.status().await;
    let no_room: Vec<&Value> = (0..3).map(|index| &status["safekeepers"][index]["no_room"]).collect();
    assert_eq!(no_room, [true, true, false], "{status}");
    assert!(cluster.primary.read().status.is_some_and(|status| status.flush < end));

    three.fill();
    walproposer.stop().await;
    let log: PathBuf = cluster.safekeepers.log_path();
    for (node, disk) in [(1, &one), (2, &two), (3, &three)] {
        cluster.safekeepers.stop(node).await;
        disk.leave_a_dead_tail(&log, SEGMENT_BYTES.into());
        cluster.safekeepers.start(node).await;
        eventually("a log that is open", async || {
            let status = cluster.safekeepers.status(node).await;
            if status["flush_lsn"].is_string() { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    let walproposer = cluster.start_walproposer().await;
    let status = walproposer.until("a leader", |status| status["state"] == "streaming").await;
    assert_eq!(status["term"], 2, "{status}");
    walproposer.until_blocked("safekeepers have no room").await;
    for node in 1..=3 {
        let wal = cluster.safekeepers.wal(node, committed).await;
        assert!(cluster.primary.read().wal.starts_with(&wal), "reads of {node} go on");
    }

    [&one, &two, &three].into_iter().for_each(SmallDisk::make_room);
    walproposer
        .until("all commits", |status| status["blocked"].is_null() && lsn(&status["commit_lsn"]) == end)
        .await;
    cluster.primary.until_acknowledged(end).await;
    assert_eq!(walproposer.get("/readyz").await.0, 200);
    until_reserved(&cluster).await;
    cluster.assert_same_wal(1..=3).await;
    walproposer.stop().await;
}
