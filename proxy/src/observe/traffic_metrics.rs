//! Metrics of the bytes that passed, summed up over all connections at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use telemetry::encode_metric;

use super::activity::{Activities, Traffic};

/// Reads the traffic of all connections.
#[derive(Debug)]
pub(crate) struct TrafficMetrics(pub(crate) Arc<Activities>);

impl Collector for TrafficMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Traffic { from_clients, to_clients } = self.0.traffic();
        let counters = [
            ("holdfast_proxy_from_clients_bytes", "Bytes received from clients", from_clients),
            ("holdfast_proxy_to_clients_bytes", "Bytes sent to clients", to_clients),
        ];
        for (name, help, bytes) in counters {
            encode_metric(&mut encoder, name, help, &ConstCounter::new(bytes))?;
        }
        Ok(())
    }
}
