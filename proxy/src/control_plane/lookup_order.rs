//! [`LookupOrder`]: which lookup began first, and which ones began before an invalidation. Decides which of two
//! answers is kept.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::route::EndpointName;

/// Endpoints share this many counters of invalidations. An invalidation therefore costs each endpoint with the same
/// counter one more lookup.
const SHARDS: usize = 256;

/// When a lookup began, compared with other lookups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LookupStart(u64);

/// The last invalidation of an endpoint. Part of the key of every shared lookup: a caller that comes after an
/// invalidation does not wait for a lookup from before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Epoch(u64);

/// The order of lookups and invalidations.
#[derive(Debug)]
pub(super) struct LookupOrder {
    begun: AtomicU64,
    /// By endpoint: lookups up to this one may have answers that are no longer true.
    invalidated: [AtomicU64; SHARDS],
}

impl Default for LookupOrder {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), invalidated: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl LookupOrder {
    /// Begins one more lookup.
    pub(super) fn begin(&self) -> LookupStart {
        LookupStart(self.begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    pub(super) fn epoch(&self, endpoint: &EndpointName) -> Epoch {
        Epoch(self.shard(endpoint).load(Ordering::SeqCst))
    }

    /// Whether the endpoint was invalidated after this lookup began.
    pub(super) fn is_invalidated(&self, endpoint: &EndpointName, start: LookupStart) -> bool {
        start.0 <= self.epoch(endpoint).0
    }

    /// Lookups of this endpoint that are under way may have answers that are no longer true; lookups of all endpoints
    /// where `None` is named.
    pub(super) fn invalidate(&self, endpoint: Option<&EndpointName>) {
        let LookupStart(now) = self.begin();
        match endpoint {
            Some(endpoint) => self.shard(endpoint).store(now, Ordering::SeqCst),
            None => self.invalidated.iter().for_each(|shard| shard.store(now, Ordering::SeqCst)),
        }
    }

    fn shard(&self, endpoint: &EndpointName) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        endpoint.hash(&mut hasher);
        let shards = SHARDS as u64;
        // Less than the number of shards, so it fits.
        &self.invalidated[usize::try_from(hasher.finish() % shards).unwrap_or_default()]
    }
}
