//! Traces: sends spans to an OpenTelemetry collector, as OTLP in protobuf over HTTP.
//!
//! Spans that have ended wait in a bounded queue of the SDK. Its own thread sends them in batches, and drops spans that
//! do not fit. So no task of a server ever waits for a collector. The environment sets sampling, limits, headers,
//! resource attributes and batch sizes (OpenTelemetry specification, "Environment Variable Specification"). The
//! connection is plain HTTP: a collector on the same machine receives the spans and encrypts them on their way further.
//!
//! Called by [`init`](crate::init).

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use crate::logging::Output;
use crate::options::Options;

/// Crates that run while a span is sent. A span of theirs would have to be sent in turn, without end.
const TARGETS_OF_THE_EXPORTER: [&str; 4] = ["hyper", "hyper_util", "opentelemetry", "reqwest"];

/// Sends spans to the collector. Without a provider it sends none.
#[derive(Debug, Default)]
pub(crate) struct Exporter {
    provider: Option<SdkTracerProvider>,
}

impl Exporter {
    /// Sends the queued spans and stops. See [`Telemetry::flush`](crate::Telemetry::flush).
    pub(crate) fn flush(&self, timeout: Duration) {
        let Some(provider) = &self.provider else { return };
        match provider.shutdown_with_timeout(timeout) {
            Ok(()) | Err(opentelemetry_sdk::error::OTelSdkError::AlreadyShutdown) => {}
            Err(error) => tracing::warn!(%error, "cannot send the last spans"),
        }
    }
}

/// Starts the exporter if the options or the environment ask for one. The error says why it could not be started.
pub(crate) fn start(options: &Options) -> Result<(Option<Output>, Exporter), String> {
    if options.collector.is_none() && !is_wanted_by_environment() {
        return Ok((None, Exporter::default()));
    }

    let mut exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
    if let Some(collector) = &options.collector {
        exporter = exporter.with_endpoint(format!("{}/v1/traces", collector.trim_end_matches('/')));
    }
    let exporter = exporter.build().map_err(|error| error.to_string())?;

    let provider = SdkTracerProvider::builder()
        .with_resource(resource(options))
        .with_batch_exporter(Reporting { exporter, is_failing: AtomicBool::new(false) })
        .build();

    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(options.service))
        .with_filter(filter_fn(|metadata| !is_of_the_exporter(metadata.target())))
        .boxed();
    Ok((Some(layer), Exporter { provider: Some(provider) }))
}

/// The `traceparent` header of the current span (W3C Trace Context, section 3.2), for a request to another service.
/// `None` outside of a span, and when no span is sent.
pub fn traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    let (trace_id, span_id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    span.is_valid().then(|| format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}"))
}

fn is_wanted_by_environment() -> bool {
    let value = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let is_off = value("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || value("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    let endpoint =
        value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| value("OTEL_EXPORTER_OTLP_ENDPOINT"));
    endpoint.is_some() && !is_off
}

fn is_of_the_exporter(target: &str) -> bool {
    let crate_name = target.split("::").next().unwrap_or(target);
    TARGETS_OF_THE_EXPORTER.contains(&crate_name)
}

fn resource(options: &Options) -> Resource {
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", options.version));
    if env::var_os("OTEL_SERVICE_NAME").is_some() {
        return builder.build();
    }
    builder.with_service_name(options.service).build()
}

/// An exporter that logs when sending begins to fail and when it succeeds again, and not for each batch.
#[derive(Debug)]
struct Reporting<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "cannot send spans to the collector, dropping them")
            }
            Ok(()) if was_failing => tracing::info!("sending spans to the collector again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
