//! The value types that every WAL crate speaks: positions, terms, identifiers, sizes.
//!
//! Nothing here does anything, and nothing here depends on anything: a type that needs a codec, a file or a clock
//! lives in a crate above.

mod id;
mod lsn;
mod segment_size;
mod term;

pub use id::{
    Generation, NodeId, ParseIdError, PrimaryId, ProposerId, SystemId, TenantId, TenantTimelineId, TimelineId,
};
pub use lsn::{Lsn, ParseLsnError};
pub use segment_size::{InvalidSegmentSize, SegmentNumber, SegmentSize};
pub use term::{Term, Tli};
