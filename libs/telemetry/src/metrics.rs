//! [`Metrics`]: the metrics registry of one process, and its text form.
//!
//! Each program has a file with its own metrics; this one adds only those that every process has. A program registers all
//! metrics while it starts and shares the registry afterwards, so reading it needs no lock.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::process_metrics::ProcessCollector;

/// Media type of [`Metrics::encode`] (OpenMetrics 1.0, "Overall Structure").
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics registry of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry with `holdfast_process_…` and `holdfast_build_info`, which shows `service` and `version` as labels.
    pub fn new(service: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("service", service), ("version", version)]);
        registry.register("holdfast_build", "The program that runs here", build);
        registry.register_collector(Box::new(ProcessCollector::new()));
        Self { registry }
    }

    /// The registry for a program's own metrics. Each is registered under its full name, so that a search finds it:
    /// `metrics.registry().register("holdfast_proxy_logins", "Logins", logins)`.
    pub const fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Writes all metrics as OpenMetrics text. An error comes from a collector.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn own_metrics_join_those_of_the_process() {
        let mut metrics = Metrics::new("proxy", "1.2.3");
        let accepted: Counter = Counter::default();
        metrics.registry().register("holdfast_proxy_accepted", "Accepted", accepted.clone());
        accepted.inc_by(3);
        let text = metrics.encode().unwrap();
        assert!(text.contains("holdfast_proxy_accepted_total 3\n"), "{text}");
        assert!(text.contains("holdfast_build_info{service=\"proxy\",version=\"1.2.3\"} 1\n"), "{text}");
        for name in ["start_time_seconds", "cpu_seconds_total", "open_fds", "resident_memory_bytes"] {
            assert!(text.contains(&format!("\nholdfast_process_{name} ")), "{name}: {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
