//! A member that is away for long: the disks of the others stay bounded, and it is named.

use safekeeper::Retention;

use crate::support::safekeepers::lsn;
use crate::support::{TestCluster, eventually};

const RECORD_BYTES: usize = 100_000;
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// Segments of WAL that are written while the member is away.
const SEGMENTS_AWAY: u64 = 12;
/// Segments that are kept for it.
const MEMBER_KEEP_SEGMENTS: u64 = 4;
/// The segment that is written and the one in which the last committed record begins, and the rest of the limit's first.
const SEGMENTS_BESIDE: u64 = 3;
/// WAL that the walproposer has in memory; the member misses more.
const SMALL_BUFFER_BYTES: u64 = 1024 * 1024;

/// One member is stopped. The others remove what is beyond `--member-keep`, commits go on, and the member is shown as one
/// that must be re-seeded, also when it is back.
#[tokio::test]
async fn dead_member_does_not_fill_disks() {
    let retention = Retention {
        wal_keep_bytes: 0,
        member_keep_bytes_max: MEMBER_KEEP_SEGMENTS * SEGMENT_BYTES,
        ..Retention::default()
    };
    let mut cluster = TestCluster::start_with(3, retention).await;
    let walproposer = cluster.start_walproposer_with_buffer(SMALL_BUFFER_BYTES).await;
    let away_from = cluster.write_flushed(RECORD_BYTES).await;
    cluster.safekeepers.stop(3).await;

    // Within the limit everything is kept for it.
    while cluster.primary.read().flush_lsn() < away_from.advance(MEMBER_KEEP_SEGMENTS / 2 * SEGMENT_BYTES) {
        cluster.write_acknowledged(RECORD_BYTES).await;
    }
    let status = cluster.safekeepers.status(1).await;
    assert!(lsn(&status["oldest_lsn"]) <= away_from, "{status}");
    assert_eq!(status["retention"]["needs_reseed"], false);

    while cluster.primary.read().flush_lsn() < away_from.advance(SEGMENTS_AWAY * SEGMENT_BYTES) {
        cluster.write_acknowledged(RECORD_BYTES).await;
    }
    for node in [1, 2] {
        eventually("removal of what the dead member lacks", async || {
            let status = cluster.safekeepers.status(node).await;
            let kept = lsn(&status["commit_lsn"]).bytes_since(lsn(&status["oldest_lsn"]));
            let is_bounded = kept <= (MEMBER_KEEP_SEGMENTS + SEGMENTS_BESIDE) * SEGMENT_BYTES;
            if is_bounded { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        let status = cluster.safekeepers.status(node).await;
        let given_up = &status["retention"]["given_up"][0];
        assert_eq!((&given_up["reason"], lsn(&given_up["from_lsn"])), (&"member".into(), away_from));
        assert_eq!(status["retention"]["needs_reseed"], true);
        let metrics = cluster.safekeepers.metrics(node).await;
        for line in [
            "holdfast_safekeeper_members_needing_reseed 1",
            "holdfast_safekeeper_retention_given_up_total{reason=\"member\"} 1",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
        }
    }

    // It comes back: it cannot be fed, it is named, and the others go on in the same term.
    cluster.safekeepers.start(3).await;
    let status = walproposer
        .until("safekeeper 3 to need a re-seed", |status| status["safekeepers"][2]["needs_reseed"] == true)
        .await;
    let error = status["safekeepers"][2]["last_error"].as_str().unwrap();
    assert!(error.contains("must be re-seeded"), "{status}");
    assert_eq!(status["blocked"], serde_json::Value::Null);
    cluster.write_acknowledged(RECORD_BYTES).await;
    assert_eq!(walproposer.until_leading().await["term"], 1);
    let (_, metrics) = walproposer.get("/metrics").await;
    assert!(metrics.contains("holdfast_walproposer_members_needing_reseed 1\n"), "{metrics}");
    assert!(lsn(&cluster.safekeepers.status(3).await["flush_lsn"]) < cluster.primary.read().flush_lsn());

    // With one of the others it is no quorum: commits wait, and the reason is named.
    cluster.safekeepers.stop(2).await;
    let end = cluster.write(RECORD_BYTES);
    walproposer.until_blocked("safekeepers 3 must be re-seeded").await;
    assert!(cluster.primary.read().status.is_some_and(|status| status.flush < end));
    cluster.safekeepers.start(2).await;
    cluster.primary.until_acknowledged(end).await;
    walproposer.stop().await;
}
