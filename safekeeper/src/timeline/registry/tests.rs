//! Timelines that cannot be opened.

use super::*;
use crate::metrics::Metrics;
use crate::shard::ShardPool;
use crate::timeline::NotServedCause;
use consensus::{Dialect, Lineage};
use prometheus_client::registry::Registry;
use wal_store::Retention;
use wal_types::{Lsn, NodeId, SegmentSize, SystemId, Tli};

fn lineage() -> Lineage {
    let segment_size = SegmentSize::new(64 * 1024).unwrap();
    Lineage {
        id: TenantTimelineId::default(),
        dialect: Dialect::Holdfast,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size,
        start_lsn: Lsn(0x2_0000),
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    }
}

/// A shard that has ended says nothing about the log: the timeline is not shown as corrupt.
#[tokio::test(flavor = "multi_thread")]
async fn ended_shard_is_not_a_corrupt_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path(), NodeId(1)).unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let pool = ShardPool::start(&metrics, &data_dir.lock(), Retention::default()).unwrap();
    let timelines = Timelines::open(data_dir, pool).unwrap();
    timelines.stop();

    let new = NewTimeline { lineage: lineage(), start_history: None };
    timelines.create(new).await.unwrap();
    let Some(Err(why)) = timelines.find(TenantTimelineId::default()) else { panic!("served") };
    assert_eq!(why.cause, NotServedCause::ShardEnded);
    assert!(why.reason.contains("shard of this timeline has ended"), "{}", why.reason);
    assert!(!why.is_retried());
}
