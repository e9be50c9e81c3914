//! The numbers of single timelines in `/metrics`, read from their snapshots at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use wal_store::{Health, Snapshot};

use crate::timeline::Timelines;

/// Timelines that are shown one by one: a scrape must stay small, whatever is stored here.
pub(crate) const TIMELINES_SHOWN_MAX: usize = 1000;

/// Reads all timelines.
#[derive(Debug)]
pub(crate) struct TimelineCollector(pub(crate) Arc<Timelines>);

type Value = fn(&Snapshot) -> u64;

const GAUGES: [(&str, &str, Value); 9] = [
    ("safekeeper_timeline_term", "Highest term promised", |snapshot| snapshot.term.0),
    ("safekeeper_timeline_flush_lsn", "End of the last durable record", |snapshot| snapshot.flush_lsn.0),
    ("safekeeper_timeline_commit_lsn", "Commit position", |snapshot| snapshot.commit_lsn.0),
    ("safekeeper_timeline_write_lsn", "End of what was written", |snapshot| snapshot.write_lsn.0),
    ("safekeeper_timeline_oldest_lsn", "Begin of the WAL that is kept", |snapshot| snapshot.oldest_lsn.0),
    ("safekeeper_timeline_lost", "1 while acknowledged WAL is missing and nothing is voted", |snapshot| {
        u64::from(snapshot.lost.is_some())
    }),
    ("safekeeper_timeline_quarantined_files", "Damaged files that were put aside", |snapshot| {
        snapshot.quarantined.len() as u64
    }),
    ("safekeeper_timeline_truncations", "Rises when the log is cut", |snapshot| snapshot.truncations),
    ("safekeeper_timeline_healthy", "1 when it can be written and read", |snapshot| {
        u64::from(snapshot.health == Health::Healthy)
    }),
];

impl Collector for TimelineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.all();
        put(&mut encoder, "safekeeper_timelines", "Timelines", all.len() as u64)?;
        let not_served = || all.iter().filter_map(|(_, timeline)| timeline.as_ref().err());
        let (retried, quarantined): (Vec<_>, Vec<_>) = not_served().partition(|why| why.is_retried());
        for (name, help, count) in [
            (
                "safekeeper_timelines_quarantined",
                "Timelines that cannot be opened until somebody mends them",
                quarantined.len(),
            ),
            (
                "safekeeper_timelines_retried",
                "Timelines whose disk is full or failed when they were opened, which is tried again",
                retried.len(),
            ),
        ] {
            put(&mut encoder, name, help, count as u64)?;
        }
        let snapshots: Vec<_> = all
            .iter()
            .filter_map(|(id, timeline)| Some((id, timeline.as_ref().ok()?.snapshot())))
            .take(TIMELINES_SHOWN_MAX)
            .collect();
        for (name, help, value) in GAUGES {
            let mut gauge = encoder.encode_descriptor(name, &format!("{help}."), None, MetricType::Gauge)?;
            for (id, snapshot) in &snapshots {
                let labels = [("tenant_id", id.tenant.to_string()), ("timeline_id", id.timeline.to_string())];
                ConstGauge::new(value(snapshot)).encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn put(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, &format!("{help}."), None, gauge.metric_type())?)
}
