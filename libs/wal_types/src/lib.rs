//! Value types of every WAL crate: positions, terms, identifiers, sizes.
//!
//! The types only hold, compare and print values, and the crate has no dependency. A type that needs a codec, a file or a
//! clock lives in a crate above.

mod id;
mod lsn;
mod segment_size;
mod term;

pub use id::{
    CopyId, Digest, Generation, InstanceId, NodeId, ParseDigestError, ParseIdError, PrimaryId, ProposerId,
    ReplicaId, SystemId, TenantId, TenantTimelineId, TimelineId,
};
pub use lsn::{Lsn, ParseLsnError};
pub use segment_size::{InvalidSegmentSize, SegmentNumber, SegmentSize};
pub use term::{Term, Tli};
