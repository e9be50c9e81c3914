//! [`Ending`]: what is left of a connection when it is over: its counts, its span's last fields, and one line in the log.
//! It is written however the connection ends, also when its task panics or is cut off with the process. Made by `server`.

use std::sync::Arc;

use tracing::Span;

use crate::observe::activity::{Activity, Destination};
use crate::observe::metrics::{ByReason, Metrics};
use crate::session::{Ended, SessionError};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Ending {
    activity: Arc<Activity>,
    metrics: Metrics,
    span: Span,
    ended: Option<Result<Ended, SessionError>>,
}

impl Ending {
    /// From here on the connection is open.
    pub(crate) fn of(activity: Arc<Activity>, metrics: Metrics, span: Span) -> Self {
        metrics.open_connections.inc();
        Self { activity, metrics, span, ended: None }
    }

    /// It ended by itself.
    pub(crate) fn with(mut self, ended: Result<Ended, SessionError>) {
        self.ended = Some(ended);
    }

    fn how(&self) -> &'static str {
        match &self.ended {
            Some(Ok(Ended::NothingAsked)) => "nothing_asked",
            Some(Ok(Ended::CancelRequest)) => "cancel_request",
            Some(Ok(Ended::Session(ended))) => ended.how(),
            Some(Err(error)) => error.how(),
            None if std::thread::panicking() => "panicked",
            None => "cut_off",
        }
    }

    fn log(&self, outcome: &'static str) {
        let Destination { endpoint, role } = self.activity.destination().cloned().unwrap_or_default();
        let view = self.activity.view();
        let (session, phases_ms) = (self.activity.id, self.activity.phases.to_string());
        let (received, sent, ms) = (view.bytes_from_client, view.bytes_to_client, view.age_ms);
        macro_rules! line {
            ($level:ident, $text:literal $(, $error:ident)?) => {
                tracing::$level!(
                    %session, endpoint, role, outcome, received, sent, ms, phases_ms, $(%$error,)? $text
                )
            };
        }
        match &self.ended {
            // Port checks: not worth a line.
            Some(Ok(Ended::NothingAsked)) => line!(debug, "nothing asked"),
            Some(Ok(Ended::CancelRequest)) => line!(debug, "cancel request"),
            Some(Ok(Ended::Session(_))) => line!(info, "session ended"),
            Some(Err(error)) if error.is_ours() => line!(warn, "no session", error),
            Some(Err(error)) => line!(info, "no session", error),
            None => line!(warn, "session cut off"),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let how = self.how();
        self.metrics.open_connections.dec();
        self.metrics.closed.get_or_create(&ByReason { reason: how }).inc();
        self.metrics.phase_seconds.observe(&self.activity.phases);
        if let Some(destination) = self.activity.destination() {
            self.span.record("endpoint", &destination.endpoint);
            self.span.record("role", &destination.role);
        }
        self.span.record("outcome", how);
        let _entered = self.span.enter();
        self.log(how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::activity::SessionId;

    fn ending(metrics: &Metrics) -> Ending {
        let activity = Activity::new(SessionId(1), None, metrics.clone());
        Ending::of(Arc::new(activity), metrics.clone(), Span::none())
    }

    #[tokio::test]
    async fn every_end_is_counted_once_and_nothing_stays_open() {
        let metrics = Metrics::new(&mut Default::default());
        let ended = |reason| metrics.closed.get_or_create(&ByReason { reason }).get();
        let open = ending(&metrics);
        assert_eq!(metrics.open_connections.get(), 1);
        let panicked = tokio::spawn(async move {
            let _open = open;
            panic!("this is what the test is about");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        ending(&metrics).with(Ok(Ended::CancelRequest));
        ending(&metrics).with(Err(SessionError::Draining));
        drop(ending(&metrics));
        assert_eq!(metrics.open_connections.get(), 0);
        assert_eq!(["panicked", "cancel_request", "draining", "cut_off"].map(ended), [1; 4]);
    }
}
