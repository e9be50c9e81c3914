//! [`Drain`]: when what ends. There are two beginnings. SIGTERM means that this process leaves: its doors stay open for a
//! while, for balancers to notice, and who wants a session there is told to come again. A hand-over means that another
//! process has the same listening sockets: the doors close at once, and who was let in before gets the session. Either way
//! sessions end as soon as they have nothing to do, and at the deadline whatever they do.
//!
//! This module only tells the time; `accept`, `session` and `server` act on it.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use utils::Shutdown;

/// How long each stage lasts, counted from the beginning of the drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Doors stay open.
    pub(crate) grace: Duration,
    /// Sessions that have nothing to do may stay.
    pub(crate) idle: Duration,
    /// All others may stay. Zero is without limit.
    pub(crate) timeout: Duration,
}

/// See the module's text.
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

    /// Another process has the listening sockets now.
    pub(crate) fn hand_over(&self) {
        tracing::info!("another process has taken over: what is under way may finish");
        self.handed_over.send_replace(true);
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// True from the first signal to end, or the hand-over, on.
    pub(crate) fn has_begun(&self) -> bool {
        self.shutdown.is_draining() || self.is_handed_over()
    }

    /// Nobody who comes now gets a session.
    pub(crate) fn refuses_sessions(&self) -> bool {
        self.shutdown.is_draining() && !self.is_handed_over()
    }

    /// Returns when [`has_begun`](Self::has_begun) is true.
    pub(crate) async fn begun(&self) -> Instant {
        tokio::select! {
            () = self.shutdown.draining() => {}
            () = self.handed_over() => {}
        }
        *self.begun.get_or_init(Instant::now)
    }

    /// Returns at the hand-over. Never, where there is none.
    pub(crate) async fn handed_over(&self) {
        // The sender lives in `self`.
        let _ = self.handed_over.subscribe().wait_for(|is_handed_over| *is_handed_over).await;
    }

    /// Returns when no connection is to be accepted any more.
    pub(crate) async fn listeners_close(&self) {
        let begun = self.begun().await;
        tokio::select! {
            () = self.handed_over() => {}
            () = self.shutdown.immediate() => {}
            () = sleep_until(begun + self.times.grace) => {}
        }
    }

    /// Returns when a session that begins now may end as soon as it has nothing to do. One that begins late has its time
    /// for a first query as well.
    pub(crate) async fn idle_sessions_end(&self) {
        self.begun().await;
        sleep(self.times.idle).await;
    }

    /// Returns when all sessions are to end.
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
    async fn after_sigterm_doors_idle_sessions_and_the_rest_end_one_after_the_other() {
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
    async fn a_hand_over_closes_the_doors_at_once_and_refuses_nobody_who_is_inside() {
        let drain = drain(TIMES);
        drain.hand_over();
        let begin = Instant::now();
        assert_eq!(seconds(begin, drain.listeners_close()).await, 0);
        assert!(drain.has_begun() && !drain.refuses_sessions());
        // Whoever stops the process that was replaced means what happens already.
        drain.shutdown.signal(Terminate);
        assert!(!drain.refuses_sessions() && !drain.shutdown.is_immediate());
        assert_eq!(seconds(begin, drain.deadline()).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupt_closes_the_doors_at_once() {
        let drain = drain(TIMES);
        drain.shutdown.signal(Interrupt);
        assert_eq!(seconds(Instant::now(), drain.listeners_close()).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_logs_in_late_has_time_for_a_first_query_and_no_more_than_others_in_all() {
        let drain = drain(TIMES);
        drain.hand_over();
        let begin = drain.begun().await;
        sleep(Duration::from_secs(30)).await;
        let times = tokio::join!(seconds(begin, drain.idle_sessions_end()), seconds(begin, drain.deadline()));
        assert_eq!(times, (37, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_of_zero_is_none() {
        let drain = drain(Times { timeout: Duration::ZERO, ..TIMES });
        drain.shutdown.signal(Terminate);
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), drain.deadline()).await.is_err());
    }
}
