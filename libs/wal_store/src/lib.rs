//! Durable storage of one timeline: segments, control file, recovery, and the replica that drives an acceptor on them.
//!
//! ```text
//!  batch of messages --> Replica --> Acceptor (consensus) --> effects, in order
//!                          |                                     |
//!                          |<--- control file (two slots) <------+ Persist: durable before the reply
//!                          |<--- segments, footers <-------------+ Write, Truncate; one sync for a batch
//!                          v
//!                       Snapshot --> WalReader (senders; files of their own, no lock)
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `control` | term, vote, history, configuration, lineage, commit position; two slots |
//! | `000000010000000000000001` … | one segment of WAL, then a page with two footers |
//! | `*.unfinished` | what a crash interrupted; removed at start |
//! | `*.quarantined.1` … | a damaged segment, kept for somebody to look at; nothing reads it |
//!
//! Four rules carry the rest. **Behind the end of the log there are only zeros**: what is cut, or was never
//! acknowledged, goes by building a new file, because a dead tail may scan as a continuation of new records. **What was
//! acknowledged is known** (footers, commit position, list of files): a log that ends below it keeps what is good, and
//! its node is lost: it follows, and votes only when a leader has repaired it. **What goes is written down first**:
//! that WAL is lost, that old WAL is not needed any more. **After a failure the disk is asked**: nothing is answered
//! from memory, no sync is tried twice, and what only the page cache may show is written again before it counts: WAL to
//! a new file, the control file in place.
//!
//! No tokio, no sockets, no threads. The lock on the data directory is the server's.

mod ack_evidence;
mod control_codec;
mod control_file;
pub mod disk;
mod error;
mod footer;
mod loss;
mod open_log;
mod reader;
mod recover;
mod removal;
mod replica;
mod scan;
mod segment;
mod snapshot;
mod writer;

pub use disk::{Disk, DiskFile, RealDisk};
#[cfg(feature = "model")]
pub use disk::{Fault, ModelDisk};
pub use error::{Corruption, InvalidLineage, Misuse, StoreError};
pub use reader::{ReadError, ReadMode, ReadOutcome, WalReader};
pub use replica::{Input, Output, RESERVE_RETRY, Rejection, Replica, UNREADABLE_TRIES_MAX};
pub use snapshot::{Health, Snapshot, SnapshotCell};
