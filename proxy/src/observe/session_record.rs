//! [`SessionRecord`]: the record of one connection: its counters, the last fields of its span, and one log line. A record
//! that is dropped without [`SessionRecord::finish`] says that the task panicked or was cut off with the process. Made by
//! `server` for every connection.

use std::sync::Arc;

use tracing::{Level, Span};

use super::activity::{Activity, Destination};
use super::metrics::{ByReason, Metrics};

/// How a connection was closed.
#[derive(Debug)]
pub(crate) struct Closed {
    /// A word of a small, fixed set: the label of the metric, and `outcome` in log and span.
    pub(crate) reason: &'static str,
    /// Level of the log line: DEBUG, INFO or WARN.
    pub(crate) level: Level,
    pub(crate) message: &'static str,
    pub(crate) error: Option<String>,
}

/// The record of an open connection.
#[derive(Debug)]
pub(crate) struct SessionRecord {
    activity: Arc<Activity>,
    metrics: Metrics,
    span: Span,
    is_finished: bool,
}

impl SessionRecord {
    /// Counts the connection as open from here on.
    pub(crate) fn open(activity: Arc<Activity>, metrics: Metrics, span: Span) -> Self {
        metrics.open_connections.inc();
        Self { activity, metrics, span, is_finished: false }
    }

    /// Writes the record of a connection whose session has returned.
    pub(crate) fn finish(mut self, closed: &Closed) {
        self.is_finished = true;
        self.write(closed);
    }

    fn write(&self, closed: &Closed) {
        self.metrics.open_connections.dec();
        self.metrics.closed.get_or_create(&ByReason { reason: closed.reason }).inc();
        self.metrics.phase_seconds.observe(&self.activity.phases);

        if let Some(destination) = self.activity.destination() {
            self.span.record("endpoint", &destination.endpoint);
            self.span.record("role", &destination.role);
        }
        self.span.record("outcome", closed.reason);
        let _entered = self.span.enter();
        self.log(closed);
    }

    fn log(&self, closed: &Closed) {
        let Destination { endpoint, role } = self.activity.destination().cloned().unwrap_or_default();
        let view = self.activity.view();
        let (session, phases_ms) = (self.activity.id, self.activity.phases.to_string());
        let (received, sent, ms) = (view.bytes_from_client, view.bytes_to_client, view.age_ms);
        let Closed { reason: outcome, level, message, .. } = closed;
        let error = closed.error.as_ref().map(tracing::field::display);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    %session, endpoint, role, outcome, received, sent, ms, phases_ms, error, "{message}"
                )
            };
        }
        match *level {
            Level::WARN => line!(warn),
            Level::INFO => line!(info),
            _ => line!(debug),
        }
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let reason = if std::thread::panicking() { "panicked" } else { "cut_off" };
        self.write(&Closed { reason, level: Level::WARN, message: "session cut off", error: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::activity::SessionId;

    fn record(metrics: &Metrics) -> SessionRecord {
        let activity = Activity::new(SessionId(1), None);
        SessionRecord::open(Arc::new(activity), metrics.clone(), Span::none())
    }

    fn closed(reason: &'static str) -> Closed {
        Closed { reason, level: Level::INFO, message: "closed", error: None }
    }

    /// However a connection ends, it is counted under one reason and is no longer open.
    #[tokio::test]
    async fn session_record_counts_every_end_once() {
        let metrics = Metrics::new(&mut Default::default());
        let count = |reason| metrics.closed.get_or_create(&ByReason { reason }).get();
        let open = record(&metrics);
        assert_eq!(metrics.open_connections.get(), 1);
        let panicked = tokio::spawn(async move {
            let _open = open;
            panic!("this is what the test is about");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        record(&metrics).finish(&closed("cancel_request"));
        record(&metrics).finish(&closed("draining"));
        drop(record(&metrics));
        assert_eq!(metrics.open_connections.get(), 0);
        assert_eq!(["panicked", "cancel_request", "draining", "cut_off"].map(count), [1; 4]);
    }
}
