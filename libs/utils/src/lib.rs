//! Small things that every server here needs and that know nothing of PostgreSQL.
//!
//! | module | what it gives |
//! |---|---|
//! | [`backoff`] | how long to wait before the next attempt |
//! | [`shutdown`] | signals as two stages, drain and immediate, and the tasks that a drain waits for |
//! | [`timed_lru`] | a bounded cache whose entries end by age and by idleness |
//! | [`single_flight`] | concurrent callers of one key share one run |
//! | [`leaky_bucket`] | how often each of many keys may do something |
//! | [`address_file`] | tells another process, in one rename, where this one listens |
//! | [`host_port`] | the form of an address on a command line |
//!
//! Decisions are pure wherever possible: time and randomness come in as arguments. Nothing here speaks a protocol,
//! counts metrics or serves HTTP.

pub mod address_file;
pub mod backoff;
pub mod host_port;
pub mod leaky_bucket;
pub mod shutdown;
pub mod single_flight;
pub mod timed_lru;

pub use backoff::Backoff;
pub use host_port::is_host_port;
pub use leaky_bucket::LeakyBuckets;
pub use shutdown::Shutdown;
pub use single_flight::SingleFlight;
pub use timed_lru::TimedLru;
