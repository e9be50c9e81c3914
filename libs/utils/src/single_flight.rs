//! [`SingleFlight`]: concurrent callers of one key share one run.
//!
//! It is not a cache: a result lives only until the callers that waited for it have it. The caller that fills a
//! cache does so *inside* the future it passes; done afterwards, a caller arriving in between finds neither the
//! entry nor the run and starts a second one. Called by the caches of the proxy, so that a hundred connections to a
//! sleeping database wake it once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Runs at most one future per key at a time; see the module's text.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Arc<Flight<V>>>>,
}

/// Whose run a result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOrigin {
    /// This caller's own future ran.
    Own,
    /// Another caller's future ran, and this is a clone of its result.
    Shared,
}

/// The result of one run, locked by whoever runs it. A tokio mutex is the whole hand-over: it is fair, and a leader
/// that is cancelled or panics drops its guard, upon which the oldest waiter finds no result and leads.
type Flight<V> = tokio::sync::Mutex<Option<V>>;

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { flights: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// Nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `run` for `key`, or waits for the caller that already does and clones its result.
    ///
    /// Every caller brings its own `run` and it is used only if that caller leads. Cancel safe: a waiter that is
    /// dropped changes nothing, a leader that is dropped hands over to the oldest waiter, which starts its own `run`.
    /// A caller's time limit goes around this call and is that caller's alone.
    pub async fn run<F: Future<Output = V>>(&self, key: K, run: impl FnOnce() -> F) -> (V, RunOrigin) {
        let seat = self.take_seat(key);
        let mut result = seat.flight().lock().await;
        if let Some(value) = &*result {
            return (value.clone(), RunOrigin::Shared);
        }
        let value = run().await;
        *result = Some(value.clone());
        // From here on a caller starts afresh; only those who already wait share this result.
        seat.close_flight();
        (value, RunOrigin::Own)
    }

    /// Keys with a run under way.
    pub fn in_flight(&self) -> usize {
        self.flights.lock().len()
    }

    fn take_seat(&self, key: K) -> Seat<'_, K, V> {
        let flight = Arc::clone(self.flights.lock().entry(key.clone()).or_default());
        Seat { group: self, key, flight: Some(flight) }
    }

    fn remove_if_same(flights: &mut HashMap<K, Arc<Flight<V>>>, key: &K, flight: &Arc<Flight<V>>) {
        if flights.get(key).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(key);
        }
    }
}

/// One caller's share in a flight. The last one to leave a flight that never ended takes it off the map.
struct Seat<'a, K: Clone + Eq + Hash, V: Clone> {
    group: &'a SingleFlight<K, V>,
    key: K,
    /// `None` only while the seat is dropped.
    flight: Option<Arc<Flight<V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Seat<'_, K, V> {
    fn flight(&self) -> &Arc<Flight<V>> {
        self.flight.as_ref().expect("a seat keeps its flight until it is dropped")
    }

    fn close_flight(&self) {
        SingleFlight::remove_if_same(&mut self.group.flights.lock(), &self.key, self.flight());
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        // Seats are taken and given back under the map's lock, so the count of references is exact here: one is the
        // map's and one is ours. Ours must go under the lock too, or two leaving at once would each see the other.
        let mut flights = self.group.flights.lock();
        if let Some(flight) = self.flight.take()
            && Arc::strong_count(&flight) == 2
        {
            SingleFlight::remove_if_same(&mut flights, &self.key, &flight);
        }
    }
}

#[cfg(test)]
mod tests {
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
}
