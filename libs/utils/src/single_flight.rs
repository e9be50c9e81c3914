//! [`SingleFlight`]: runs one future per key and gives its result to all concurrent callers.
//!
//! It is not a cache: a result lives only until the callers that waited for it have it. A caller that fills a cache does
//! so *inside* the future that it passes. If it filled the cache afterwards, a caller that arrives in between would find
//! neither the entry nor the run, and would start a second one. Called by the caches of the proxy, so that a hundred
//! connections to a suspended compute wake it once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Runs at most one future per key at a time.
///
/// ```
/// use utils::SingleFlight;
/// use utils::single_flight::RunOrigin;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let wakes = SingleFlight::new();
/// let wake = async || {
///     tokio::task::yield_now().await;
///     "10.0.0.1:5432"
/// };
/// let (first, second) = tokio::join!(wakes.run("endpoint", wake), wakes.run("endpoint", wake));
/// assert_eq!(first, ("10.0.0.1:5432", RunOrigin::Own));
/// assert_eq!(second, ("10.0.0.1:5432", RunOrigin::Shared));
/// # });
/// ```
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Arc<Flight<V>>>>,
}

/// Which caller's future produced a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOrigin {
    /// This caller's own future.
    Own,
    /// Another caller's future; the value is a clone of its result.
    Shared,
}

/// The result of one run, locked by the caller that runs it. When that caller is cancelled or panics it drops its
/// guard. The tokio mutex is fair, so the oldest waiter gets it, finds no result and runs its own future.
type Flight<V> = tokio::sync::Mutex<Option<V>>;

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { flights: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// No run under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `run` for `key`, or waits for the caller that already does and clones its result.
    ///
    /// Every caller brings its own `run`; it is used only when no other caller runs. Cancel safe: a waiter that is
    /// dropped changes nothing, and when the running caller is dropped the oldest waiter starts its own `run`. A time
    /// limit goes around this call and holds for that caller alone.
    pub async fn run<F: Future<Output = V>>(&self, key: K, run: impl FnOnce() -> F) -> (V, RunOrigin) {
        let seat = self.enter(key);
        let mut result = seat.flight().lock().await;
        if let Some(value) = &*result {
            return (value.clone(), RunOrigin::Shared);
        }
        let value = run().await;
        *result = Some(value.clone());
        // From here on a new caller starts a new run; only present waiters share this result.
        seat.close_flight();
        (value, RunOrigin::Own)
    }

    /// Number of keys with a run under way.
    pub fn in_flight(&self) -> usize {
        self.flights.lock().len()
    }

    fn enter(&self, key: K) -> Seat<'_, K, V> {
        let flight = Arc::clone(self.flights.lock().entry(key.clone()).or_default());
        Seat { group: self, key, flight: Some(flight) }
    }

    fn remove_if_same(flights: &mut HashMap<K, Arc<Flight<V>>>, key: &K, flight: &Arc<Flight<V>>) {
        if flights.get(key).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(key);
        }
    }
}

/// One caller's share in a flight. The last caller to leave a flight that never ended removes it from the map.
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
        // map's, one is this seat's. This one must go under the lock too: two seats that leave together would otherwise
        // each count the other, and the key would stay.
        let mut flights = self.group.flights.lock();
        if let Some(flight) = self.flight.take()
            && Arc::strong_count(&flight) == 2
        {
            SingleFlight::remove_if_same(&mut flights, &self.key, &flight);
        }
    }
}

#[cfg(test)]
mod tests;
