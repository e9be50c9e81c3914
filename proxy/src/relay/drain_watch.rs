//! [`DrainWatch`]: tells a relay whether a drain ends its session. Its futures are polled when they have woken the relay,
//! not when bytes have: their waker sets a flag, and without the flag a poll costs no more than to look at it.

use std::pin::Pin;
use std::task::{Context, Poll};

use utils::{FlaggedTask, WakeFlag};

/// How a drain ends a session.
pub(crate) struct DrainEnds<B, I, A> {
    /// Completes when a drain begins.
    pub(crate) begun: B,
    /// Called when a drain has begun. When its future completes, the session ends as soon as it is idle.
    pub(crate) when_idle: I,
    /// Called when a drain has begun. When its future completes, the session ends at once.
    pub(crate) in_any_case: A,
}

/// When the session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    /// As its client or its compute likes.
    NotYet,
    /// As soon as it is idle.
    WhenIdle,
    /// At once.
    InAnyCase,
}

/// Watches for the drain.
pub(super) struct DrainWatch<B, F, G, I, A> {
    stage: Stage<B, F, G, I, A>,
    ends: Ends,
    task: FlaggedTask,
    flag: WakeFlag,
}

enum Stage<B, F, G, I, A> {
    NoDrain(B, Option<(F, G)>),
    Draining(Pin<Box<I>>, Pin<Box<A>>),
    Over,
}

impl<B, F, G, I, A> DrainWatch<B, F, G, I, A>
where
    B: Future + Unpin,
    F: FnOnce() -> I,
    G: FnOnce() -> A,
    I: Future<Output = ()>,
    A: Future<Output = ()>,
{
    pub(super) fn new(drain: DrainEnds<B, F, G>) -> Self {
        let task = FlaggedTask::new();
        let flag = task.flag();
        let stage = Stage::NoDrain(drain.begun, Some((drain.when_idle, drain.in_any_case)));
        Self { stage, ends: Ends::NotYet, task, flag }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Ends {
        self.task.set(cx);
        if self.flag.take() {
            self.poll_futures();
        }
        self.ends
    }

    fn poll_futures(&mut self) {
        let cx = &mut Context::from_waker(self.flag.waker());
        if let Stage::NoDrain(begun, then) = &mut self.stage
            && Pin::new(begun).poll(cx).is_ready()
            && let Some((when_idle, in_any_case)) = then.take()
        {
            self.stage = Stage::Draining(Box::pin(when_idle()), Box::pin(in_any_case()));
        }
        if let Stage::Draining(when_idle, in_any_case) = &mut self.stage {
            if self.ends == Ends::NotYet && when_idle.as_mut().poll(cx).is_ready() {
                self.ends = Ends::WhenIdle;
            }
            if in_any_case.as_mut().poll(cx) == Poll::Ready(()) {
                self.ends = Ends::InAnyCase;
                self.stage = Stage::Over;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    /// Bytes wake the task a thousand times; the drain's futures are polled when they wake it themselves.
    #[tokio::test]
    async fn drain_watch_polls_futures_only_when_woken() {
        let (begin, idle, polls) = (Notify::new(), Notify::new(), Cell::new(0));
        let begun = Box::pin(async {
            let mut notified = std::pin::pin!(begin.notified());
            poll_fn(|cx| {
                polls.set(polls.get() + 1);
                notified.as_mut().poll(cx)
            })
            .await;
        });
        let drain = DrainEnds { begun, when_idle: || idle.notified(), in_any_case: pending::<()> };
        let mut watch = DrainWatch::new(drain);
        for _ in 0..1000 {
            assert_eq!(poll_fn(|cx| Poll::Ready(watch.poll(cx))).await, Ends::NotYet);
            yield_now().await;
        }
        assert_eq!(polls.get(), 1);

        let ends = poll_fn(|cx| match watch.poll(cx) {
            Ends::NotYet => Poll::Pending,
            ends => Poll::Ready(ends),
        });
        let draining = async {
            begin.notify_one();
            yield_now().await;
            idle.notify_one();
        };
        assert_eq!(tokio::join!(ends, draining).0, Ends::WhenIdle);
        assert_eq!(polls.get(), 2);
    }
}
