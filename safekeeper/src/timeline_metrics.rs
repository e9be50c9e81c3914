//! Metrics of the timelines, read from their snapshots at each scrape.
//!
//! A safekeeper may hold thousands of timelines, so the number of series is bounded. Counts, sums and maxima cover all
//! timelines. Series of single timelines exist for [`TIMELINES_WITH_METRICS_MAX`] of them: those that are not healthy
//! first, then those that receive WAL, then the others, each group in the order of the ids. `GET /v1/timelines` shows all.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use telemetry::encode_metric;
use wal_store::{Health, HoldReason, Snapshot};
use wal_types::{Lsn, TenantTimelineId};

use crate::disk::DiskState;
use crate::timeline::{NotServedCause, Timelines};

/// Timelines that have series of their own.
pub(crate) const TIMELINES_WITH_METRICS_MAX: usize = 200;

/// Encodes the metrics of all timelines at each scrape.
#[derive(Debug)]
pub(crate) struct TimelineCollector {
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) disk: Arc<DiskState>,
}

/// The state of all timelines at one scrape.
#[derive(Debug, Default)]
struct Scrape {
    /// In the order of their ids.
    served: Vec<TimelineSample>,
    not_served: Vec<NotServedCause>,
}

/// The state of one served timeline.
#[derive(Clone, Debug)]
struct TimelineSample {
    id: TenantTimelineId,
    snapshot: Arc<Snapshot>,
    proposers: usize,
    readers: usize,
    /// Where the reader that is furthest behind would resume.
    reader_at: Option<Lsn>,
    /// WAL that each of [`HoldReason::ALL`] keeps, in bytes.
    held_bytes: [u64; HoldReason::ALL.len()],
    /// A member lacks WAL that was removed here.
    needs_reseed: bool,
}

/// Name, help, and the value of a timeline.
type TimelineGauge = (&'static str, &'static str, fn(&Snapshot) -> u64);

const TIMELINE_GAUGES: [TimelineGauge; 8] = [
    ("holdfast_safekeeper_timeline_term", "Highest term that was promised", |snapshot| snapshot.term.0),
    ("holdfast_safekeeper_timeline_write_lsn", "End of the WAL that was written", |snapshot| {
        snapshot.write_lsn.0
    }),
    ("holdfast_safekeeper_timeline_flush_lsn", "End of the last durable record", |snapshot| {
        snapshot.flush_lsn.0
    }),
    ("holdfast_safekeeper_timeline_commit_lsn", "End of the committed WAL", |snapshot| snapshot.commit_lsn.0),
    ("holdfast_safekeeper_timeline_oldest_lsn", "Start of the WAL that is kept", |snapshot| {
        snapshot.oldest_lsn.0
    }),
    ("holdfast_safekeeper_timeline_healthy", "1 when the timeline can be written and read", |snapshot| {
        u64::from(snapshot.health == Health::Healthy)
    }),
    (
        "holdfast_safekeeper_timeline_lost",
        "1 while acknowledged WAL is missing and the timeline does not vote",
        |snapshot| u64::from(snapshot.lost.is_some()),
    ),
    ("holdfast_safekeeper_timeline_quarantined_files", "Damaged files that were put aside", |snapshot| {
        snapshot.quarantined.len() as u64
    }),
];

/// Value of a forecast that there is none for: an alarm compares it with hours.
const NOT_IN_SIGHT_SECONDS: u64 = 1 << 32;

const TRUNCATIONS_HELP: &str = "Rises when files of a log may have been truncated or replaced";

impl Collector for TimelineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        encode_metric(
            &mut encoder,
            "holdfast_safekeeper_disk_descriptor_shortages",
            "Times that the disk found no free file descriptor",
            &ConstCounter::new(wal_store::handle_shortages()),
        )?;
        self.encode_disk(&mut encoder)?;
        let mut scrape = Scrape::default();
        for (id, timeline) in self.timelines.all() {
            match timeline {
                Ok(timeline) => scrape.served.push(TimelineSample {
                    id,
                    snapshot: timeline.snapshot(),
                    proposers: timeline.proposer_count(),
                    readers: timeline.readers.count(),
                    reader_at: timeline.readers.furthest_behind(),
                    held_bytes: HoldReason::ALL.map(|reason| timeline.holds.held_bytes(reason)),
                    needs_reseed: timeline.holds.needs_reseed(),
                }),
                Err(why) => scrape.not_served.push(why.cause),
            }
        }
        scrape.encode(&mut encoder)
    }
}

impl TimelineCollector {
    fn encode_disk(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (_, free) = self.disk.total_and_free();
        for (name, help, value) in [
            ("holdfast_safekeeper_disk_free_bytes", "Free bytes of the data directory's file system", free),
            (
                "holdfast_safekeeper_disk_level",
                "0 with room; 1 while old WAL of readers and members is given up; 2 while that of slots is",
                self.disk.level() as u64,
            ),
            (
                "holdfast_safekeeper_disk_seconds_to_pause",
                "Time until appends pause, at the rate of the last ten minutes; more than 1e9 when that is not in sight",
                self.disk.seconds_to_full().unwrap_or(NOT_IN_SIGHT_SECONDS),
            ),
            (
                "holdfast_safekeeper_disk_reserve_files",
                "Files whose room is set aside for recoveries on a full disk",
                self.timelines.reserve_files().0 as u64,
            ),
        ] {
            encode_metric(encoder, name, help, &ConstGauge::new(value))?;
        }
        Ok(())
    }
}

impl TimelineSample {
    fn labels(&self) -> [(&'static str, String); 2] {
        [("tenant_id", self.id.tenant.to_string()), ("timeline_id", self.id.timeline.to_string())]
    }
}

impl Scrape {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_counts(encoder)?;
        self.encode_totals(encoder)?;
        self.encode_holds(encoder)?;
        self.encode_selected(encoder)
    }

    fn encode_counts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let healths = [
            ("healthy", Health::Healthy),
            ("full", Health::Full),
            ("failed", Health::Failed),
            ("lost", Health::Lost),
            ("corrupt", Health::Corrupt),
        ];
        let help = "Timelines that are served, by health: healthy, full, failed, lost, corrupt.";
        let mut family =
            encoder.encode_descriptor("holdfast_safekeeper_timelines", help, None, MetricType::Gauge)?;
        for (label, health) in healths {
            let count = self.served.iter().filter(|sample| sample.snapshot.health == health).count();
            ConstGauge::new(count as u64).encode(family.encode_family(&[("health", label)])?)?;
        }

        let causes = [
            ("opening", NotServedCause::Opening),
            ("disk_full", NotServedCause::DiskFull),
            ("disk_failed", NotServedCause::DiskFailed),
            ("quarantined", NotServedCause::Quarantined),
            ("thread_ended", NotServedCause::ShardEnded),
        ];
        let help = "Timelines that are not open, by reason: opening comes just after a start, disk_full and disk_failed \
                    are tried again, quarantined and thread_ended need the operator.";
        let name = "holdfast_safekeeper_timelines_not_served";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, cause) in causes {
            let count = self.not_served.iter().filter(|found| **found == cause).count();
            ConstGauge::new(count as u64).encode(family.encode_family(&[("reason", label)])?)?;
        }
        Ok(())
    }

    /// Sums and maxima over all timelines that are served.
    fn encode_totals(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sum = |value: fn(&TimelineSample) -> u64| self.served.iter().map(value).sum::<u64>();
        let max = |value: fn(&TimelineSample) -> u64| self.served.iter().map(value).max().unwrap_or(0);
        let without_series = self.served.len().saturating_sub(TIMELINES_WITH_METRICS_MAX) as u64;

        for (name, help, value) in [
            (
                "holdfast_safekeeper_timelines_without_series",
                "Timelines that are served and have no holdfast_safekeeper_timeline_* series, because there are too many",
                without_series,
            ),
            (
                "holdfast_safekeeper_proposers",
                "Connected proposers of all timelines",
                sum(|sample| sample.proposers as u64),
            ),
            (
                "holdfast_safekeeper_readers",
                "Connected readers of all timelines",
                sum(|sample| sample.readers as u64),
            ),
            (
                "holdfast_safekeeper_wal_kept_bytes",
                "WAL that is kept for all timelines",
                sum(|sample| between(sample.snapshot.oldest_lsn, sample.snapshot.write_lsn)),
            ),
            (
                "holdfast_safekeeper_quarantined_files",
                "Damaged files of all timelines that were put aside",
                sum(|sample| sample.snapshot.quarantined.len() as u64),
            ),
            (
                "holdfast_safekeeper_members_needing_reseed",
                "Timelines of which a member lacks WAL that was removed here, so it must be re-seeded",
                sum(|sample| u64::from(sample.needs_reseed)),
            ),
            (
                "holdfast_safekeeper_unflushed_max_bytes",
                "The most WAL of one timeline that is written and not durable",
                max(|sample| between(sample.snapshot.flush_lsn, sample.snapshot.write_lsn)),
            ),
            (
                "holdfast_safekeeper_uncommitted_max_bytes",
                "The most WAL of one timeline that is durable and not committed",
                max(|sample| between(sample.snapshot.commit_lsn, sample.snapshot.flush_lsn)),
            ),
            (
                "holdfast_safekeeper_reader_lag_max_bytes",
                "The most committed WAL that a connected reader does not have",
                max(|sample| sample.reader_at.map_or(0, |at| between(at, sample.snapshot.commit_lsn))),
            ),
        ] {
            encode_metric(encoder, name, help, &ConstGauge::new(value))?;
        }
        let truncations = ConstCounter::new(sum(|sample| sample.snapshot.truncations));
        encode_metric(encoder, "holdfast_safekeeper_truncations", TRUNCATIONS_HELP, &truncations)
    }

    /// WAL that is kept, by the reason that keeps it. Reasons overlap.
    fn encode_holds(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help =
            "WAL below the commit positions of all timelines that a reason keeps, whatever others keep";
        let name = "holdfast_safekeeper_retention_held_bytes";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (index, reason) in HoldReason::ALL.iter().enumerate() {
            let held: u64 = self.served.iter().map(|sample| sample.held_bytes[index]).sum();
            ConstGauge::new(held).encode(family.encode_family(&[("reason", reason.label())])?)?;
        }
        Ok(())
    }

    /// The series of single timelines.
    fn encode_selected(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let selected = self.selected();
        let bounded = |help: &str| format!("{help}; for {TIMELINES_WITH_METRICS_MAX} timelines at most.");
        for (name, help, value) in TIMELINE_GAUGES {
            let mut family = encoder.encode_descriptor(name, &bounded(help), None, MetricType::Gauge)?;
            for sample in &selected {
                ConstGauge::new(value(&sample.snapshot)).encode(family.encode_family(&sample.labels())?)?;
            }
        }

        let (name, help) = ("holdfast_safekeeper_timeline_truncations", bounded(TRUNCATIONS_HELP));
        let mut family = encoder.encode_descriptor(name, &help, None, MetricType::Counter)?;
        for sample in &selected {
            ConstCounter::new(sample.snapshot.truncations).encode(family.encode_family(&sample.labels())?)?;
        }
        Ok(())
    }

    /// The timelines that have series of their own, the most urgent first.
    fn selected(&self) -> Vec<&TimelineSample> {
        let mut selected: Vec<_> = self.served.iter().collect();
        selected.sort_by_key(|sample| {
            let is_healthy = sample.snapshot.health == Health::Healthy;
            (is_healthy, !sample.snapshot.receives_wal, sample.id)
        });
        selected.truncate(TIMELINES_WITH_METRICS_MAX);
        selected
    }
}

/// Bytes from `from` up to `to`; 0 when `to` is not above.
fn between(from: Lsn, to: Lsn) -> u64 {
    to.0.saturating_sub(from.0)
}

#[cfg(test)]
mod tests;
