//! [`Lineage`]: identity of one log. Fixed when the timeline is created.

use wal_types::{Digest, Lsn, SegmentSize, SystemId, TenantTimelineId, Tli};

/// Family of proposers that writes a timeline. Chosen when the timeline is created and never changed: the two dialects
/// disagree on the meaning of a vote and of a term history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The public protocol, versions 2 and 3; the PostgreSQL timeline is always 1.
    Neon,
    /// Version `holdfast-2`: pre-vote, votes bound to a proposer id, PostgreSQL timelines in the history.
    Holdfast,
}

/// Version of the proposer protocol that a connection speaks, named in START_WAL_PUSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolVersion {
    /// Little-endian structs, generation 0 only.
    V2,
    /// Packed, big-endian, with generations.
    V3,
    /// `holdfast-2`: version 3 with more fields and messages.
    Holdfast2,
}

impl ProtocolVersion {
    /// The dialect of the timelines that this version may write.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::V2 | Self::V3 => Dialect::Neon,
            Self::Holdfast2 => Dialect::Holdfast,
        }
    }
}

/// Identity of one log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// Name of the log.
    pub id: TenantTimelineId,
    /// Family of proposers that may write it.
    pub dialect: Dialect,
    /// The PostgreSQL cluster whose WAL this is; zero until the first proposer names it (dialect `neon` only).
    pub system_id: SystemId,
    /// `PG_VERSION_NUM`, for example 150018. The major part never changes; zero until known.
    pub pg_version: u32,
    /// Bytes per segment file.
    pub segment_size: SegmentSize,
    /// First byte of the log. Counts as a record end. The start of a segment; in dialect `neon` it may lie inside one.
    pub start_lsn: Lsn,
    /// PostgreSQL timeline at `start_lsn`.
    pub start_tli: Tli,
    /// Hash of the first configuration: two logs of one name, created twice with different members, differ in it. `None`
    /// until the copy is told who the members are.
    pub birth: Option<Digest>,
    /// Hash of the text of PostgreSQL's history file of `start_tli`, for a log that begins on a timeline above 1. The text
    /// itself is at most [`START_HISTORY_BYTES_MAX`] long and stored beside the log.
    pub start_history: Option<Digest>,
}

/// Longest history file at the start of a log, in bytes.
pub const START_HISTORY_BYTES_MAX: usize = 64 * 1024;

impl Lineage {
    /// PostgreSQL's major version, for example 15; zero when unknown.
    pub const fn pg_major(&self) -> u32 {
        self.pg_version / 10_000
    }
}
