//! Building blocks of every server that know nothing of PostgreSQL.
//!
//! | module | purpose |
//! |---|---|
//! | [`accept_loop`] | takes connections from a TCP or Unix listener, with pauses after failures |
//! | [`backoff`] | computes how long to wait before the next attempt |
//! | [`descriptors`] | raises the limit of open files, and splits it between disk, connections and handshakes |
//! | [`handshakes`] | limits clients that have not authenticated, in total and for each address |
//! | [`shutdown`] | ends a server in two stages, drain and immediate, and waits for its tasks |
//! | [`timed_lru`] | bounded cache that expires entries by age and by idle time |
//! | [`single_flight`] | runs one future per key for all concurrent callers |
//! | [`wake_flag`] | tells a task that polls many things which of them has woken it |
//! | [`leaky_bucket`] | limits how often an event may happen, for each of many keys |
//! | [`address_file`] | tells another process where this one listens |
//! | [`host_port`] | checks an address given on the command line |
//! | [`byte_size`] | reads a size such as 16GB |
//!
//! Decisions are pure where possible: time and randomness are arguments. Nothing here speaks a protocol, counts metrics
//! or serves HTTP.

pub mod accept_loop;
pub mod address_file;
pub mod backoff;
pub mod byte_size;
pub mod descriptors;
pub mod handshakes;
pub mod host_port;
pub mod leaky_bucket;
pub mod shutdown;
pub mod single_flight;
pub mod timed_lru;
pub mod wake_flag;

pub use backoff::Backoff;
pub use byte_size::ByteSize;
pub use descriptors::DescriptorBudget;
pub use handshakes::Handshakes;
pub use host_port::is_host_port;
pub use leaky_bucket::LeakyBuckets;
pub use shutdown::Shutdown;
pub use single_flight::SingleFlight;
pub use timed_lru::TimedLru;
pub use wake_flag::{FlaggedTask, WakeFlag};
