//! Metrics of the threads that serve connections, read from their state at each scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::Handle;

/// State of one thread.
#[derive(Debug)]
pub(crate) struct ThreadState {
    /// Spawns tasks on the thread.
    pub(crate) runtime: Handle,
    /// Connections that the thread serves.
    pub(crate) connections: AtomicUsize,
}

/// All threads, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct ThreadMetrics(pub(crate) Arc<[Arc<ThreadState>]>);

impl Collector for ThreadMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_each(
            &mut encoder,
            "holdfast_proxy_thread_connections",
            "Connections that a thread serves.",
            |thread| ConstGauge::new(thread.connections.load(Ordering::Relaxed) as u64),
        )?;
        self.encode_each(
            &mut encoder,
            "holdfast_proxy_thread_busy_seconds",
            "Time in which a thread served connections and did not wait for any.",
            |thread| ConstCounter::new(thread.runtime.metrics().worker_total_busy_duration(0).as_secs_f64()),
        )
    }
}

impl ThreadMetrics {
    fn encode_each<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        read: impl Fn(&ThreadState) -> M,
    ) -> Result<(), fmt::Error> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let mut family = encoder.encode_descriptor(name, help, None, read(first).metric_type())?;
        for (number, thread) in self.0.iter().enumerate() {
            read(thread).encode(family.encode_family(&[("thread", number)])?)?;
        }
        Ok(())
    }
}
