//! [`Phases`]: measures a login by phase. Of nested phases only the innermost is measured: while an authentication
//! waits for the control plane, the time counts as `control_plane` and not as `auth`. So the phases of a connection
//! add up. Each phase is also a span.
//!
//! Set up by `server` around a session; `session`, `auth` and `compute` mark their phases with [`timed`]. Outside of a
//! session nothing is measured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tracing::{Instrument, Span, info_span};

/// A timed part of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// From the accept to the admission: limits, the balancer's header.
    Accept,
    /// From the admission to the startup packet, TLS and the client's pauses included.
    Tls,
    /// The same without TLS.
    Startup,
    /// Route and password.
    Auth,
    /// Waiting for the role's verifier or the compute's address.
    ControlPlane,
    /// Waiting for a compute to start.
    Wake,
    /// Connection, TLS and login at the compute, and the answer to the client.
    Connect,
}

const PHASES: [Phase; 7] = [
    Phase::Accept,
    Phase::Tls,
    Phase::Startup,
    Phase::Auth,
    Phase::ControlPlane,
    Phase::Wake,
    Phase::Connect,
];

impl Phase {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Tls => "tls",
            Self::Startup => "startup",
            Self::Auth => "auth",
            Self::ControlPlane => "control_plane",
            Self::Wake => "wake",
            Self::Connect => "connect",
        }
    }

    /// Makes the phase's span. The macro needs a literal as name.
    fn span(self) -> Span {
        match self {
            Self::Accept => info_span!("accept"),
            Self::Tls => info_span!("tls"),
            Self::Startup => info_span!("startup"),
            Self::Auth => info_span!("auth"),
            Self::ControlPlane => info_span!("control_plane"),
            Self::Wake => info_span!("wake"),
            Self::Connect => info_span!("connect"),
        }
    }
}

/// The clocks of one connection.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    clocks: Mutex<Clocks>,
}

#[derive(Debug, Default)]
struct Clocks {
    /// `None` for a phase that the connection has not reached.
    spent: [Option<Duration>; PHASES.len()],
    running: Option<(Phase, Instant)>,
}

impl Clocks {
    /// Stops the running clock and starts the one of `to`. Returns the phase whose clock ran before.
    fn switch(&mut self, to: Option<Phase>) -> Option<Phase> {
        let now = Instant::now();
        let before = self.running.take().map(|(phase, since)| {
            self.add(phase, now.saturating_duration_since(since));
            phase
        });
        if let Some(phase) = to {
            self.add(phase, Duration::ZERO);
            self.running = Some((phase, now));
        }
        before
    }

    fn add(&mut self, phase: Phase, time: Duration) {
        *self.spent[phase as usize].get_or_insert_default() += time;
    }
}

tokio::task_local! {
    static CURRENT: Arc<Phases>;
}

impl Phases {
    /// Runs a session. [`timed`] inside of it adds to these phases.
    pub(crate) fn of<T>(self: Arc<Self>, session: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self, session)
    }

    /// Adds a time that was measured elsewhere.
    pub(crate) fn add(&self, phase: Phase, time: Duration) {
        self.clocks.lock().add(phase, time);
    }

    /// Moves the time of one phase to another: only its end shows whether a handshake was TLS.
    pub(crate) fn rename(&self, from: Phase, to: Phase) {
        let mut clocks = self.clocks.lock();
        clocks.spent[to as usize] = clocks.spent[from as usize].take();
    }

    /// The phases that the connection reached, in their order.
    pub(crate) fn spent(&self) -> Vec<(Phase, Duration)> {
        let spent = self.clocks.lock().spent;
        PHASES.iter().filter_map(|phase| Some((*phase, spent[*phase as usize]?))).collect()
    }
}

/// `accept=0.1 tls=3.2`, in milliseconds.
impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (phase, time)) in self.spent().into_iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{}={:.1}", phase.name(), time.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// Runs `work` and measures it as `phase`. Meanwhile the clock of the outer phase stands still.
pub(crate) async fn timed<T>(phase: Phase, work: impl Future<Output = T>) -> T {
    let entered = CURRENT.try_with(Arc::clone).ok().map(|phases| {
        let before = phases.clocks.lock().switch(Some(phase));
        Entered { phases, before }
    });
    let done = work.instrument(phase.span()).await;
    drop(entered);
    done
}

/// Starts the outer clock again when dropped, also when the work is cancelled.
struct Entered {
    phases: Arc<Phases>,
    before: Option<Phase>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.phases.clocks.lock().switch(self.before);
    }
}

/// Time by phase, over all connections.
#[derive(Clone, Debug)]
pub(crate) struct PhaseSeconds(Family<Labels, Histogram>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    phase: &'static str,
}

impl PhaseSeconds {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // From a tenth of a millisecond to the minute that a cold start may take.
        let histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let family = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "holdfast_proxy_phase_seconds",
            "Time that connections spent, by phase; tls, startup and auth with the pauses of the client",
            family.clone(),
        );
        Self(family)
    }

    /// Counts what a connection has spent, once, when its login is over.
    pub(crate) fn observe(&self, phases: &Phases) {
        for (phase, time) in phases.spent() {
            self.0.get_or_create(&Labels { phase: phase.name() }).observe(time.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn inner_phase_stops_the_outer_clock() {
        let (phases, begin) = (Arc::new(Phases::default()), Instant::now());
        let session = timed(Phase::Auth, async {
            sleep(SECOND).await;
            timed(Phase::ControlPlane, sleep(2 * SECOND)).await;
            sleep(4 * SECOND).await;
            // Cancelled while it runs.
            let _ = timeout(8 * SECOND, timed(Phase::Wake, sleep(100 * SECOND))).await;
            sleep(16 * SECOND).await;
        });
        Arc::clone(&phases).of(session).await;
        sleep(SECOND).await;
        phases.add(Phase::Accept, SECOND);
        assert_eq!(phases.to_string(), "accept=1000.0 auth=21000.0 control_plane=2000.0 wake=8000.0");
        assert_eq!(begin.elapsed(), 32 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn timed_outside_of_a_session_runs_the_work() {
        assert_eq!(timed(Phase::Connect, async { 7 }).await, 7);
    }

    #[test]
    fn phase_seconds_observes_only_reached_phases() {
        let mut registry = Registry::default();
        let metrics = PhaseSeconds::new(&mut registry);
        let phases = Phases::default();
        for phase in PHASES {
            phases.add(phase, SECOND);
        }
        phases.rename(Phase::Tls, Phase::Startup);
        metrics.observe(&phases);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for phase in PHASES {
            let count = format!("phase_seconds_count{{phase=\"{}\"}} 1", phase.name());
            assert_eq!(text.contains(&count), phase != Phase::Tls, "{text}");
        }
    }
}
