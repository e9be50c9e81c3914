//! Drain: tells when the proxy stops accepting connections, when idle sessions end, and when all sessions end.
//!
//! A drain begins in one of two ways. At SIGTERM the listeners stay open for a while, so that load balancers notice, and a
//! client that wants a session is told to connect again. At a handover another process has the same listening sockets: the
//! listeners close at once, and a client that was admitted before gets its session. Either way a session ends as soon as it
//! is idle, and at the deadline even if it is busy.
//!
//! This module closes nothing: `accept`, `session` and `server` wait for its points in time and act.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use utils::Shutdown;

/// How long each stage lasts, counted from the beginning of the drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// The listeners stay open.
    pub(crate) grace: Duration,
    /// Idle sessions may stay.
    pub(crate) idle: Duration,
    /// Busy sessions may stay. Zero is without limit.
    pub(crate) timeout: Duration,
}

/// The timeline of one process.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) shutdown: Shutdown,
    handed_over: watch::Sender<bool>,
    begun: OnceLock<Instant>,
    times: Times,
}

impl Drain {
    pub(crate) fn new(shutdown: Shutdown, times: Times) -> Self {
        Self { shutdown, handed_over: watch::Sender::new(false), begun: OnceLock::new(), times }
    }

    /// Begins the drain of a handover: another process serves the listening sockets.
    pub(crate) fn hand_over(&self) {
        tracing::info!("handed over to another process, draining");
        self.handed_over.send_replace(true);
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// Whether a drain has begun, by a signal or by a handover.
    pub(crate) fn has_begun(&self) -> bool {
        self.shutdown.is_draining() || self.is_handed_over()
    }

    /// Whether a client that comes now is refused a session.
    pub(crate) fn refuses_sessions(&self) -> bool {
        self.shutdown.is_draining() && !self.is_handed_over()
    }

    /// Waits until a drain begins. Returns when it began.
    pub(crate) async fn begun(&self) -> Instant {
        tokio::select! {
            () = self.shutdown.draining() => {}
            () = self.handed_over() => {}
        }
        *self.begun.get_or_init(Instant::now)
    }

    /// Waits for a handover. Never returns without one.
    pub(crate) async fn handed_over(&self) {
        // The sender lives in `self`.
        let _ = self.handed_over.subscribe().wait_for(|is_handed_over| *is_handed_over).await;
    }

    /// Waits until no further connection is to be accepted.
    pub(crate) async fn listeners_close(&self) {
        let begun = self.begun().await;
        tokio::select! {
            () = self.handed_over() => {}
            () = self.shutdown.immediate() => {}
            () = sleep_until(begun + self.times.grace) => {}
        }
    }

    /// Waits until the calling session is to end as soon as it is idle. The time counts from the call when the drain
    /// has begun before, so that a session that begins late has time for a first query.
    pub(crate) async fn idle_sessions_end(&self) {
        self.begun().await;
        sleep(self.times.idle).await;
    }

    /// Waits until all sessions are to end.
    pub(crate) async fn deadline(&self) {
        let begun = self.begun().await;
        if self.times.timeout.is_zero() {
            std::future::pending().await
        }
        sleep_until(begun + self.times.timeout).await;
    }
}

#[cfg(test)]
mod tests {
    use utils::shutdown::Signal::{Interrupt, Terminate};

    use super::*;

    const TIMES: Times = Times {
        grace: Duration::from_secs(5),
        idle: Duration::from_secs(7),
        timeout: Duration::from_secs(60),
    };

    fn drain(times: Times) -> Drain {
        Drain::new(Shutdown::new(), times)
    }

    async fn seconds(begin: Instant, event: impl Future<Output = ()>) -> u64 {
        event.await;
        begin.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn sigterm_closes_listeners_then_idle_then_busy_sessions() {
        let drain = drain(TIMES);
        assert!(!drain.has_begun() && !drain.refuses_sessions());
        drain.shutdown.signal(Terminate);
        assert!(drain.has_begun() && drain.refuses_sessions());
        let begin = Instant::now();
        let times = tokio::join!(
            seconds(begin, drain.listeners_close()),
            seconds(begin, drain.idle_sessions_end()),
            seconds(begin, drain.deadline())
        );
        assert_eq!(times, (5, 7, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn handover_closes_listeners_and_keeps_admitted_clients() {
        let drain = drain(TIMES);
        drain.hand_over();
        let begin = Instant::now();
        assert_eq!(seconds(begin, drain.listeners_close()).await, 0);
        assert!(drain.has_begun() && !drain.refuses_sessions());
        // A SIGTERM to a process that was replaced asks for what happens already.
        drain.shutdown.signal(Terminate);
        assert!(!drain.refuses_sessions() && !drain.shutdown.is_immediate());
        assert_eq!(seconds(begin, drain.deadline()).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn interrupt_closes_listeners_at_once() {
        let drain = drain(TIMES);
        drain.shutdown.signal(Interrupt);
        assert_eq!(seconds(Instant::now(), drain.listeners_close()).await, 0);
    }

    /// A session that begins late gets the whole idle time, but ends at the deadline of all.
    #[tokio::test(start_paused = true)]
    async fn late_session_has_time_for_a_query() {
        let drain = drain(TIMES);
        drain.hand_over();
        let begin = drain.begun().await;
        sleep(Duration::from_secs(30)).await;
        let times = tokio::join!(seconds(begin, drain.idle_sessions_end()), seconds(begin, drain.deadline()));
        assert_eq!(times, (37, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_of_zero_is_without_limit() {
        let drain = drain(Times { timeout: Duration::ZERO, ..TIMES });
        drain.shutdown.signal(Terminate);
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), drain.deadline()).await.is_err());
    }
}
