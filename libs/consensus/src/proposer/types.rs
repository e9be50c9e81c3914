//! What a [`Proposer`](super::Proposer) is told, and what it tells.

use thiserror::Error;
use wal_types::{
    Generation, Lsn, NodeId, PrimaryId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli,
};

use super::peer::PeerState;
use crate::configuration::{Configuration, InvalidConfiguration, Member};
use crate::message::ChecksumResponse;

/// What a campaign is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerOptions {
    /// The log.
    pub id: TenantTimelineId,
    /// This campaign: random, never used twice.
    pub proposer_id: ProposerId,
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// The primary's cluster; zero when there is no primary.
    pub system_id: SystemId,
    /// The primary's version; zero when there is no primary.
    pub pg_version: u32,
    /// The primary's timeline; `None` without a primary: the log's newest one is kept.
    pub tli: Option<Tli>,
    /// The campaign is for a term above this one: the highest that earlier campaigns met. A safekeeper that is slow to
    /// answer and had promised a high term would otherwise depose one leader after the other.
    pub term_floor: Term,
    /// Safekeepers to talk to. They vote where no configuration says otherwise.
    pub safekeepers: Vec<NodeId>,
    /// The primary whose WAL this is. A log with a designated primary takes no other one's; none: there is no primary
    /// and no WAL will be added.
    pub primary: Option<PrimaryId>,
    /// WAL kept in memory for safekeepers that lag, in bytes.
    pub send_buffer_bytes_max: u64,
}

/// What the driver must do or know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A quorum told its position. Check the primary, then call [`Proposer::request_votes`].
    PreVoted {
        /// End of the newest log among those asked.
        flush_lsn: Lsn,
        /// First byte of the log.
        start_lsn: Lsn,
        /// PostgreSQL timeline at that end.
        tli: Option<Tli>,
    },
    /// A quorum granted the term. Check the primary against the log's end, then call [`Proposer::approve`].
    Elected(Election),
    /// Everything below is durable on a quorum under this term.
    Committed(Lsn),
    /// A quorum holds this configuration under this term: no later proposer can miss it.
    Configured(Configuration),
    /// The answer to [`Proposer::request_checksum`].
    Checksum {
        /// Who answered.
        from: NodeId,
        /// What it answered.
        response: ChecksumResponse,
    },
    /// The safekeeper sent an answer that does not fit what it was asked: close the connection and begin anew.
    Reset(NodeId),
}

/// The result of the votes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    /// The term that was won.
    pub term: Term,
    /// End of the newest log among the voters: this term's WAL starts here.
    pub start: Lsn,
    /// First byte of the log.
    pub log_start: Lsn,
    /// Who holds everything below `start`.
    pub donor: NodeId,
    /// PostgreSQL timeline of the donor's log at `start`; none when the log is empty.
    pub tli: Option<Tli>,
}

impl Election {
    /// From where on the primary's WAL has to be compared with the donor's, up to `start`: the segment with the last
    /// byte of the log. Not the segment of `start` itself: a log that ends with a segment would be compared nowhere, and
    /// a primary with other bytes below would be told that they are committed.
    pub fn compare_from(&self, segment_size: SegmentSize) -> Lsn {
        let last_byte = Lsn(self.start.0.saturating_sub(1));
        segment_size.start_of(segment_size.segment_of(last_byte)).max(self.log_start)
    }
}

/// Another proposer holds, or may hold, a higher term: this campaign is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum LostTerm {
    /// A safekeeper promised a higher term.
    #[error("safekeeper {by} has promised term {term}, above ours ({own})")]
    Deposed {
        /// Who said so.
        by: NodeId,
        /// What it promised.
        term: Term,
        /// Our term.
        own: Term,
    },
    /// Too many refused: another campaign of the same term was faster.
    #[error("another proposer took the votes of term {0}")]
    Outvoted(Term),
    /// The members changed while this proposer acted under older ones.
    #[error("safekeeper {by} knows a newer configuration, of generation {generation}")]
    Reconfigured {
        /// Who said so.
        by: NodeId,
        /// The newer generation.
        generation: Generation,
    },
    /// Safekeepers were given different members under one generation.
    #[error(
        "safekeeper {by} lists other members than the others in generation {generation}: \
         create its timeline anew with the same members"
    )]
    TwoConfigurations {
        /// Who differs.
        by: NodeId,
        /// The generation.
        generation: Generation,
    },
    /// The log has a designated primary, and it is another one.
    #[error("the log takes WAL of primary {designated} only")]
    NotDesignated {
        /// Who may write.
        designated: PrimaryId,
    },
    /// There is no higher number.
    #[error("terms are exhausted")]
    Exhausted,
}

/// Where the campaign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CampaignPhase {
    /// Asking for positions.
    PreVoting,
    /// A quorum answered; the driver checks the primary.
    PreVoted,
    /// Asking for votes.
    Voting,
    /// A quorum granted; the driver checks the primary.
    Elected,
    /// Streaming.
    Leading,
}

/// A part of the log that a lagging safekeeper needs and the buffer no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DonorRange {
    /// Who holds it.
    pub donor: NodeId,
    /// Next byte that the lagging safekeeper needs.
    pub from: Lsn,
    /// Read at most up to here.
    pub until: Lsn,
}

/// One safekeeper, for status pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// How far the conversation is.
    pub state: PeerState,
    /// Flush position: acknowledged in this term, else as told by its vote or pre-vote.
    pub flush_lsn: Lsn,
    /// Persisted commit position as told in this term.
    pub commit_lsn: Lsn,
    /// True while it needs WAL that is no longer buffered.
    pub catching_up: bool,
}

/// A step from one configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfigurationChange {
    /// Other members vote, by way of a joint configuration.
    Members(Vec<Member>),
    /// Another primary writes; this one stops when it is decided.
    Primary(PrimaryId),
}

/// Why a change did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ChangeRefused {
    /// Only a leader changes anything.
    #[error("this proposer does not lead")]
    NotLeading,
    /// One step at a time: a later proposer must find at most one that is not decided.
    #[error("configuration of generation {0} is not decided yet")]
    Undecided(Generation),
    /// Nobody may hold such a configuration.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// There is nobody to vote.
    #[error("a log needs at least one member")]
    NoMembers,
    /// It is so already.
    #[error("nothing would change")]
    NoChange,
    /// There is no higher number.
    #[error("generations are exhausted")]
    Exhausted,
}
