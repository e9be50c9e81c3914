//! Metrics of more timelines than have series of their own.

use super::*;
use consensus::{Configuration, Dialect, Lineage, TermHistory};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use wal_types::{SegmentSize, SystemId, TenantId, Term, TimelineId, Tli};

/// Encodes the same scrape each time.
#[derive(Debug)]
struct FixedCollector(Scrape);

impl Collector for FixedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(&mut encoder)
    }
}

fn sample(number: u32) -> TimelineSample {
    let mut timeline = [0; 16];
    timeline[..4].copy_from_slice(&number.to_be_bytes());
    let id = TenantTimelineId { tenant: TenantId([7; 16]), timeline: TimelineId(timeline) };
    let lineage = Lineage {
        id,
        dialect: Dialect::Holdfast,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size: SegmentSize::new(64 * 1024).unwrap(),
        start_lsn: Lsn(0x1_0000),
        start_tli: Tli::FIRST,

        birth: None,
        start_history: None,
    };
    let snapshot = Snapshot {
        copy: wal_types::CopyId::default(),
        start_history: None,
        health: Health::Healthy,
        term: Term(1),
        last_log_term: Term(1),
        history: Arc::new(TermHistory::default()),
        tli_switches: Arc::new([]),
        lineage: Arc::new(lineage),
        configuration: Arc::new(Configuration::default()),
        configuration_term: Term(0),
        lost: None,
        quarantined: Arc::new([]),
        write_lsn: Lsn(0x1_0500),
        flush_lsn: Lsn(0x1_0400),
        commit_lsn: Lsn(0x1_0300),
        persisted_commit_lsn: Lsn(0x1_0000),
        horizon_lsn: Lsn(0x1_0000),
        oldest_lsn: Lsn(0x1_0000),
        truncations: 1,
        receives_wal: false,
    };
    TimelineSample {
        id,
        snapshot: Arc::new(snapshot),
        proposers: 1,
        readers: 1,
        reader_at: Some(Lsn(0x1_0100)),
        held_bytes: [1, 2, 3, 4],
        needs_reseed: number == 4,
    }
}

fn encoded(scrape: Scrape) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(FixedCollector(scrape)));
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    text
}

/// With three times as many timelines as the limit, each per-timeline metric has as many series as the limit.
#[test]
fn timeline_series_are_bounded_and_totals_complete() {
    let count = 3 * TIMELINES_WITH_METRICS_MAX;
    let mut served: Vec<_> = (0..count as u32).map(sample).collect();
    let last = Arc::make_mut(&mut served[count - 1].snapshot);
    (last.health, last.truncations) = (Health::Full, 5);
    let active = Arc::make_mut(&mut served[count - 2].snapshot);
    (active.receives_wal, active.flush_lsn) = (true, Lsn(0x1_0480));
    served[7].reader_at = Some(Lsn(0x1_0010));
    let (unhealthy, written, first) = (served[count - 1].id, served[count - 2].id, served[0].id);
    let not_served = vec![NotServedCause::Quarantined, NotServedCause::DiskFull, NotServedCause::DiskFull];
    let text = encoded(Scrape { served, not_served });

    let gauges = TIMELINE_GAUGES.map(|(name, ..)| name);
    for name in gauges.into_iter().chain(["holdfast_safekeeper_timeline_truncations_total"]) {
        let series = text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        assert_eq!(series, TIMELINES_WITH_METRICS_MAX, "{name}");
    }
    let timelines: Vec<_> =
        text.lines().filter(|line| line.starts_with("holdfast_safekeeper_timeline_term{")).collect();
    for (place, id) in [unhealthy, written, first].into_iter().enumerate() {
        assert!(timelines[place].contains(&id.timeline.to_string()), "{place}: {}", timelines[place]);
    }
    for line in [
        format!("holdfast_safekeeper_timelines{{health=\"healthy\"}} {}", count - 1),
        "holdfast_safekeeper_timelines{health=\"full\"} 1".to_owned(),
        "holdfast_safekeeper_timelines{health=\"lost\"} 0".to_owned(),
        "holdfast_safekeeper_timelines_not_served{reason=\"quarantined\"} 1".to_owned(),
        "holdfast_safekeeper_timelines_not_served{reason=\"disk_full\"} 2".to_owned(),
        format!("holdfast_safekeeper_timelines_without_series {}", count - TIMELINES_WITH_METRICS_MAX),
        format!("holdfast_safekeeper_proposers {count}"),
        format!("holdfast_safekeeper_readers {count}"),
        format!("holdfast_safekeeper_wal_kept_bytes {}", count * 0x500),
        format!("holdfast_safekeeper_unflushed_max_bytes {}", 0x100),
        format!("holdfast_safekeeper_uncommitted_max_bytes {}", 0x180),
        format!("holdfast_safekeeper_reader_lag_max_bytes {}", 0x2f0),
        format!("holdfast_safekeeper_truncations_total {}", count - 1 + 5),
        format!("holdfast_safekeeper_retention_held_bytes{{reason=\"member\"}} {}", 3 * count),
        "holdfast_safekeeper_members_needing_reseed 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
}

#[test]
fn scrape_without_timelines_has_all_totals() {
    let text = encoded(Scrape::default());
    for line in
        ["holdfast_safekeeper_timelines{health=\"healthy\"} 0", "holdfast_safekeeper_wal_kept_bytes 0"]
    {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}
