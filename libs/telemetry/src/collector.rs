//! [`encode_metric`]: one metric of a collector, which reads its values at each scrape.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};

/// Writes a metric without labels. `name` is the full name; `help` is a sentence without its full stop, which the registry
/// adds to its own metrics, but not to those of a collector.
pub fn encode_metric(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, &format!("{help}."), None, metric.metric_type())?)
}
