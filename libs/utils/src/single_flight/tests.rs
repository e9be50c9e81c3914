//! Tests of shared runs: who runs, who waits, and what happens when callers leave.

use super::*;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;

/// Polls once, so that a test decides who came first.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn callers_of_one_key_share_one_run() {
    let flights = SingleFlight::new();
    let (release, released) = oneshot::channel();
    let mut leader = pin!(flights.run("a", || async { released.await.unwrap() }));
    assert!(poll_once(leader.as_mut()).is_pending());
    let mut waiters: Vec<_> =
        (0..10).map(|_| Box::pin(flights.run("a", || async { unreachable!("led twice") }))).collect();
    for waiter in &mut waiters {
        assert!(poll_once(waiter.as_mut()).is_pending());
    }
    release.send(7).unwrap();
    assert_eq!(leader.await, (7, RunOrigin::Own));
    for waiter in waiters {
        assert_eq!(waiter.await, (7, RunOrigin::Shared));
    }
    assert_eq!(flights.in_flight(), 0);
}

#[tokio::test]
async fn keys_do_not_wait_for_each_other() {
    let flights = SingleFlight::<_, u8>::new();
    let mut stuck = pin!(flights.run("a", pending));
    assert!(poll_once(stuck.as_mut()).is_pending());
    assert_eq!(flights.run("b", || async { 2 }).await, (2, RunOrigin::Own));
    assert_eq!(flights.in_flight(), 1);
}

#[tokio::test]
async fn caller_after_the_end_runs_again() {
    let flights = SingleFlight::new();
    assert_eq!(flights.run("a", || async { 1 }).await, (1, RunOrigin::Own));
    assert_eq!(flights.run("a", || async { 2 }).await, (2, RunOrigin::Own));
}

/// This holds even while waiters of the ended run still collect its result.
#[tokio::test]
async fn caller_after_the_end_never_shares() {
    let flights = SingleFlight::new();
    let (release, released) = oneshot::channel();
    let mut leader = pin!(flights.run("a", || async { released.await.unwrap() }));
    assert!(poll_once(leader.as_mut()).is_pending());
    let mut waiter = pin!(flights.run("a", || async { unreachable!("led twice") }));
    assert!(poll_once(waiter.as_mut()).is_pending());
    release.send(1).unwrap();
    assert_eq!(leader.await, (1, RunOrigin::Own));
    let started = AtomicUsize::new(0);
    let mut second = pin!(flights.run("a", || {
        started.fetch_add(1, Ordering::Relaxed);
        pending()
    }));
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(started.load(Ordering::Relaxed), 1, "the second run does not wait for those of the first");
    // The last one of the first run leaves, and must not take the second off the map.
    assert_eq!(waiter.await, (1, RunOrigin::Shared));
    assert_eq!(flights.in_flight(), 1);
}

#[tokio::test]
async fn cancelled_run_passes_to_the_oldest_waiter() {
    let flights = SingleFlight::new();
    let mut leader = Box::pin(flights.run("a", pending));
    assert!(poll_once(leader.as_mut()).is_pending());
    let mut oldest = pin!(flights.run("a", || async { 1 }));
    assert!(poll_once(oldest.as_mut()).is_pending());
    let mut younger = pin!(flights.run("a", || async { 2 }));
    assert!(poll_once(younger.as_mut()).is_pending());
    drop(leader);
    assert!(poll_once(younger.as_mut()).is_pending(), "the oldest waiter is first");
    assert_eq!(oldest.await, (1, RunOrigin::Own));
    assert_eq!(younger.await, (1, RunOrigin::Shared));
}

#[tokio::test]
async fn key_is_forgotten_when_all_callers_leave() {
    let flights = SingleFlight::<_, u8>::new();
    let mut leader = Box::pin(flights.run("a", pending));
    assert!(poll_once(leader.as_mut()).is_pending());
    let mut waiter = Box::pin(flights.run("a", pending));
    assert!(poll_once(waiter.as_mut()).is_pending());
    drop(waiter);
    assert_eq!(flights.in_flight(), 1);
    drop(leader);
    assert_eq!(flights.in_flight(), 0);
}

#[test]
fn key_is_forgotten_when_callers_leave_together() {
    const ROUNDS: usize = 5_000;
    let flights = SingleFlight::<_, u8>::new();
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (flights, barrier) = (&flights, &barrier);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut call = Box::pin(flights.run(round, pending));
                    assert!(poll_once(call.as_mut()).is_pending(), "{thread}");
                    barrier.wait();
                    drop(call);
                }
            });
        }
    });
    assert_eq!(flights.in_flight(), 0);
}

#[tokio::test]
async fn panicking_run_is_handed_over_too() {
    let flights = Arc::new(SingleFlight::new());
    let leader = {
        let flights = Arc::clone(&flights);
        tokio::spawn(async move { flights.run("a", || async { panic!("on purpose") }).await })
    };
    assert!(leader.await.unwrap_err().is_panic());
    assert_eq!(flights.in_flight(), 0);
    assert_eq!(flights.run("a", || async { 3 }).await, (3, RunOrigin::Own));
}

/// Under load, with callers that give up; no key stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_of_a_key_never_overlap() {
    let flights = Arc::new(SingleFlight::new());
    let running: Arc<[AtomicUsize; 3]> = Arc::default();
    let tasks: Vec<_> = (0..600_usize)
        .map(|number| {
            let (flights, running) = (Arc::clone(&flights), Arc::clone(&running));
            tokio::spawn(async move {
                let key = number % 3;
                let call = flights.run(key, || async {
                    assert_eq!(running[key].fetch_add(1, Ordering::SeqCst), 0, "two runs of one key");
                    let _leave = Leave(&running[key]);
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                });
                if number % 5 == 0 {
                    // Polled once and dropped: leaders and waiters that give up.
                    let mut call = pin!(call);
                    let _ = poll_once(call.as_mut());
                } else {
                    call.await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(flights.in_flight(), 0);
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
