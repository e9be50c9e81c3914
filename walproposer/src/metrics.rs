//! What a scraper sees of the walproposer: the [`StatusBoard`], as numbers. Nothing is counted here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use telemetry::Metrics;

use crate::status::{LeadershipState, LinkState, SafekeeperView, StatusBoard};

/// The registry, with the metrics of the process and those of `board`.
pub(crate) fn registry(board: &StatusBoard) -> Metrics {
    let mut metrics = Metrics::new("walproposer", env!("CARGO_PKG_VERSION"));
    metrics.registry().register_collector(Box::new(StatusCollector(board.clone())));
    metrics
}

#[derive(Debug)]
struct StatusCollector(StatusBoard);

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.0.read();
        let gauges = [
            (
                "streaming",
                "1 while this process leads",
                u64::from(snapshot.state == LeadershipState::Streaming),
            ),
            ("blocked", "1 while commits are not acknowledged", u64::from(snapshot.blocked().is_some())),
            ("term", "Term of the current campaign", snapshot.term.map_or(0, |term| term.0)),
            ("term_start_lsn", "Where the term's own WAL begins", snapshot.term_start_lsn.0),
            ("commit_lsn", "Durable on a quorum", snapshot.commit_lsn.0),
            ("primary_flush_lsn", "End of the primary's WAL", snapshot.primary_flush_lsn.0),
            ("reported_lsn", "What the primary was last told", snapshot.reported_lsn.0),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let (name, help) = (format!("walproposer_{name}"), format!("{help}."));
            gauge.encode(encoder.encode_descriptor(&name, &help, None, gauge.metric_type())?)?;
        }
        let elections = ConstCounter::new(snapshot.elections);
        let name = "walproposer_elections_won";
        elections.encode(encoder.encode_descriptor(
            name,
            "Elections won since the start.",
            None,
            elections.metric_type(),
        )?)?;

        type Value<'a> = &'a dyn Fn(&SafekeeperView) -> u64;
        let per_safekeeper: [(&str, &str, Value<'_>); 4] = [
            ("streaming", "1 while the safekeeper follows", &|view| {
                u64::from(view.state == LinkState::Streaming)
            }),
            ("flush_lsn", "Flush position of the safekeeper", &|view| view.flush_lsn.0),
            ("commit_lsn", "Persisted commit position of the safekeeper", &|view| view.commit_lsn.0),
            ("lag_bytes", "How far the safekeeper is behind the primary", &|view| {
                snapshot.lag_bytes(view).unwrap_or(0)
            }),
        ];
        for (name, help, value) in per_safekeeper {
            let (name, help) = (format!("walproposer_safekeeper_{name}"), format!("{help}."));
            let mut family = encoder.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
            for view in &snapshot.safekeepers {
                let gauge = ConstGauge::new(value(view));
                gauge.encode(family.encode_family(&[("safekeeper", view.address.id.to_string())])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, SafekeeperAddress};
    use wal_types::{NodeId, Term};

    #[test]
    fn the_board_is_shown_as_numbers() {
        let safekeepers = vec![SafekeeperAddress { id: NodeId(7), host: "h".into(), port: 1 }];
        let board = StatusBoard::new(&Cluster {
            safekeepers,
            id: wal_types::TenantTimelineId::default(),
            token: None,
        });
        board.update(|snapshot| snapshot.term = Some(Term(5)));
        let text = registry(&board).encode().unwrap();
        for line in [
            "walproposer_term 5",
            "walproposer_blocked 1",
            "walproposer_elections_won_total 0",
            "walproposer_safekeeper_flush_lsn{safekeeper=\"7\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
