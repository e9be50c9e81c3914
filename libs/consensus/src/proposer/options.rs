//! [`ProposerOptions`]: names the log, the primary and the safekeepers of a campaign.

use wal_types::{NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use crate::configuration::Primary;

/// Which log a campaign wants to lead, for which primary, and on which safekeepers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerOptions {
    /// The log.
    pub id: TenantTimelineId,
    /// Name of this campaign: random, never used twice.
    pub proposer_id: ProposerId,
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// The primary's cluster; zero without a primary.
    pub system_id: SystemId,
    /// The primary's `PG_VERSION_NUM`; zero without a primary.
    pub pg_version: u32,
    /// The primary's timeline; `None` without a primary: the newest timeline of the log is kept.
    pub tli: Option<Tli>,
    /// The highest term that deposed an earlier campaign of this process; this campaign is for a higher one. Without the
    /// floor, a slow safekeeper that has promised a high term would depose one leader after the other.
    pub term_floor: Term,
    /// Safekeepers to connect to. They vote where no configuration says otherwise.
    pub safekeepers: Vec<NodeId>,
    /// The primary whose WAL this is. A log with a designated primary takes WAL of no other. `None` without a primary:
    /// no WAL will be added.
    pub primary: Option<Primary>,
    /// WAL kept in memory for lagging safekeepers, in bytes.
    pub send_buffer_bytes_max: u64,
}
