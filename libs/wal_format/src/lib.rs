//! Format of PostgreSQL's write-ahead log: pages, records, segment names and record ends.
//!
//! ```text
//! segment file │ long header │ record │ record │ rec… ║ short header │ …ord │ record │ … ║ short header │ …
//!                40 bytes      MAXALIGNed records     ║ 24 bytes       a record goes on over page boundaries
//!              └──────────────── 8 KiB page ──────────╨────────────────────────────────────╨──────────────
//! ```
//!
//! [`RecordScanner`] consumes bytes in pieces of any size and finds the last record end; [`find_end_of_log`] does so over
//! stored WAL with anything behind it; [`WalBuilder`] writes WAL for tests. There are no files, no sockets and no clocks
//! here, and no knowledge of what a record does: only framing and checksums. The store, the acceptors, the proposer and
//! the simulation use it.
//!
//! The facts are from PostgreSQL's documentation, "WAL Internals", and its public headers `access/xlogrecord.h` and
//! `access/xlog_internal.h`, majors 14 to 18, in little-endian byte order.

mod builder;
mod end_of_log;
mod page;
mod page_chain;
mod partial_record;
mod record;
mod record_end;
mod scan_error;
mod scanner;
mod segment;

pub use builder::{Appended, WalBuilder};
pub use end_of_log::{ScanEnd, StopReason, find_end_of_log};
pub use page::{
    LongHeader, PAGE_BYTES, PAGE_HEADER_LONG_BYTES, PAGE_HEADER_SHORT_BYTES, PageError, PageFlags,
    PageHeader, PageMagic, page_header_bytes,
};
pub use page_chain::ScanContext;
pub use record::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES, RecordError, RecordHeader, XLOG_RECORD_BYTES_MAX,
};
pub use scan_error::ScanError;
pub use scanner::RecordScanner;
pub use segment::{ParseSegmentNameError, SegmentName};
