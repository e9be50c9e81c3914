//! Durable storage of one timeline: segments, control file, recovery, and [`Replica`], which drives an acceptor on them.
//!
//! ```text
//!  batch of messages --> Replica --> Acceptor (consensus) --> effects, in order
//!                          |                                     |
//!                          |<--- control file (two slots) <------+ Persist: durable before the reply
//!                          |<--- segments, footers <-------------+ Write, Truncate; one sync for a batch
//!                          v
//!                       Snapshot --> WalReader (for senders; opens its own files, no lock)
//! ```
//!
//! | file | content |
//! |---|---|
//! | `control` | term, vote, history, configuration, lineage, commit position; two slots |
//! | `start_history` | history file of the timeline that the log begins on, if that is above 1 |
//! | `000000010000000000000001` … | one segment of WAL, then a page with two footers |
//! | `*.unfinished` | a file that a crash interrupted; removed at start |
//! | `*.quarantined.1` … | a damaged segment, kept for the operator; nothing reads it |
//!
//! Four rules carry the rest:
//!
//! * **Behind the end of the log there are only zeros.** WAL that is truncated, or was never acknowledged, is dropped by
//!   building a new file, because a dead tail may scan as a continuation of new records.
//! * **The acknowledged position is known** from footers, commit position and list of files. A log that ends below it
//!   keeps its good part, and its node is *lost* (damaged): it follows a leader, and does not vote until it is repaired.
//! * **Every loss and every removal is persisted before a file is touched.**
//! * **After a failure the disk is read again.** Nothing is answered from memory, and no sync is tried twice. What only
//!   the page cache may show is written again before it counts: WAL to a new file, the control file in place.
//!
//! There is no tokio, no socket and no thread here. The server holds the lock on the data directory.

mod ack_evidence;
mod assess;
mod batch;
mod blank_segment;
mod content_reader;
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
mod retention;
mod scan;
mod segment;
mod snapshot;
mod start_history;
mod work;
mod writer;

pub use batch::{Input, Output, Rejection};
pub use disk::{Disk, DiskFile, HANDLES_RESERVED, OutOfHandles, RealDisk, RoomReserve, handle_shortages};
#[cfg(feature = "model")]
pub use disk::{Fault, ModelDisk};
pub use error::{Corruption, InvalidLineage, Misuse, StoreError};
pub use reader::{ReadError, ReadMode, ReadOutcome, WalReader};
pub use replica::{Replica, UNREADABLE_TRIES_MAX};
pub use retention::{Hold, HoldReason, Pressure, Retention, RetentionPlan};
pub use snapshot::{Health, Snapshot, SnapshotCell};
pub use work::{RESERVE_RETRY, Work, WorkDone};
