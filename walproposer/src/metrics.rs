//! Metrics of the walproposer: shows the values and histograms of the [`StatusBoard`]. Nothing is counted here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use telemetry::Metrics;

use crate::primary_settings::ProblemReason;
use crate::status::{
    CommitHistograms, LeadershipState, LinkState, SafekeeperView, StatusBoard, StatusSnapshot,
};

/// The registry, with the metrics of the process and those of `board`.
pub(crate) fn registry(board: &StatusBoard) -> Metrics {
    let mut metrics = Metrics::new("walproposer", env!("CARGO_PKG_VERSION"));
    let CommitHistograms { commit_wait, quorum_lag } = board.histograms().clone();
    let registry = metrics.registry();
    registry.register_collector(Box::new(StatusCollector(board.clone())));
    registry.register(
        "holdfast_walproposer_commit_wait_seconds",
        "From the arrival of WAL to the report that a quorum has it",
        commit_wait,
    );
    registry.register(
        "holdfast_walproposer_quorum_lag_bytes",
        "WAL that a quorum lacked when more of it arrived",
        quorum_lag,
    );
    metrics
}

/// Reads the board at each scrape.
#[derive(Debug)]
struct StatusCollector(StatusBoard);

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.0.read();

        for (name, help, value) in gauges(&snapshot) {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }

        let elections = ConstCounter::new(snapshot.elections);
        elections.encode(encoder.encode_descriptor(
            "holdfast_walproposer_elections_won",
            "Elections won since the start of the process.",
            None,
            MetricType::Counter,
        )?)?;

        let mut family = encoder.encode_descriptor(
            "holdfast_walproposer_primary_unsafe",
            "1 while this setting of the primary voids the promise of a quorum.",
            None,
            MetricType::Gauge,
        )?;
        for reason in ProblemReason::ALL {
            let is_wrong = snapshot.settings.as_ref().is_some_and(|view| view.has(reason));
            let gauge = ConstGauge::new(u64::from(is_wrong));
            gauge.encode(family.encode_family(&[("setting", reason.setting())])?)?;
        }
        if let Some(view) = &snapshot.settings {
            let age = ConstGauge::new(view.read_at.elapsed().as_secs_f64());
            age.encode(encoder.encode_descriptor(
                "holdfast_walproposer_primary_settings_age_seconds",
                "Time since the primary's settings were read.",
                None,
                MetricType::Gauge,
            )?)?;
        }

        for (name, help, value) in SAFEKEEPER_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for view in &snapshot.safekeepers {
                let gauge = ConstGauge::new(value(&snapshot, view));
                gauge.encode(family.encode_family(&[("safekeeper", view.address.id.to_string())])?)?;
            }
        }
        Ok(())
    }
}

/// Name, help and value of each gauge of the process.
fn gauges(snapshot: &StatusSnapshot) -> [(&'static str, &'static str, u64); 8] {
    [
        (
            "holdfast_walproposer_streaming",
            "1 while this process leads.",
            u64::from(snapshot.state == LeadershipState::Streaming),
        ),
        (
            "holdfast_walproposer_blocked",
            "1 while commits are not acknowledged, or not as promised.",
            u64::from(snapshot.blocked().is_some()),
        ),
        (
            "holdfast_walproposer_term",
            "Term of the current campaign; 0 without one.",
            snapshot.term.map_or(0, |term| term.0),
        ),
        (
            "holdfast_walproposer_term_start_lsn",
            "First position of the term's own WAL.",
            snapshot.term_start_lsn.0,
        ),
        (
            "holdfast_walproposer_commit_lsn",
            "Position up to which WAL is durable on a quorum.",
            snapshot.commit_lsn.0,
        ),
        (
            "holdfast_walproposer_members_needing_reseed",
            "Members that lack WAL which no other safekeeper has.",
            snapshot.needing_reseed().len() as u64,
        ),
        ("holdfast_walproposer_primary_flush_lsn", "End of the primary's WAL.", snapshot.primary_flush_lsn.0),
        (
            "holdfast_walproposer_reported_lsn",
            "Position last acknowledged to the primary.",
            snapshot.reported_lsn.0,
        ),
    ]
}

type SafekeeperGauge = (&'static str, &'static str, fn(&StatusSnapshot, &SafekeeperView) -> u64);

/// Name, help and value of each gauge of a safekeeper.
const SAFEKEEPER_GAUGES: [SafekeeperGauge; 4] = [
    ("holdfast_walproposer_safekeeper_streaming", "1 while the safekeeper follows.", |_, view| {
        u64::from(view.state == LinkState::Streaming)
    }),
    ("holdfast_walproposer_safekeeper_flush_lsn", "Flush position of the safekeeper.", |_, view| {
        view.flush_lsn.0
    }),
    (
        "holdfast_walproposer_safekeeper_commit_lsn",
        "Persisted commit position of the safekeeper.",
        |_, view| view.commit_lsn.0,
    ),
    (
        "holdfast_walproposer_safekeeper_lag_bytes",
        "Bytes that the safekeeper is behind the primary.",
        |snapshot, view| snapshot.lag_bytes(view).unwrap_or(0),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, SafekeeperAddress};
    use wal_types::{NodeId, Term};

    #[test]
    fn metrics_show_the_status_board() {
        let safekeepers = vec![SafekeeperAddress { id: NodeId(7), host: "h".into(), port: 1 }];
        let board = StatusBoard::new(&Cluster {
            safekeepers,
            id: wal_types::TenantTimelineId::default(),
            token: None,
        });
        board.update(|snapshot| snapshot.term = Some(Term(5)));
        let text = registry(&board).encode().unwrap();
        for line in [
            "holdfast_walproposer_term 5",
            "holdfast_walproposer_blocked 1",
            "holdfast_walproposer_primary_unsafe{setting=\"fsync\"} 0",
            "holdfast_walproposer_elections_won_total 0",
            "holdfast_walproposer_safekeeper_flush_lsn{safekeeper=\"7\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
