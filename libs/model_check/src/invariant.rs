//! [`Invariant`]: the invariants that every reachable state must satisfy. An invariant that the simulation has too has
//! the same name there.

/// An invariant of every reachable state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// Two campaigns are never elected in one term.
    OneLeaderPerTerm,
    /// Where two histories name the same term for the same position, the logs are equal up to there.
    LogsMatchWhereHistoriesMatch,
    /// The committed log is a prefix of every later committed log, and of the log of every later leader.
    CommittedBytesNeverChange,
    /// Committed records are durable on a majority of the voters, at the commit and ever after.
    CommitIsDurableOnAQuorum,
    /// A node's commit position was decided, never goes back, is never truncated, and its log has the committed bytes
    /// below.
    NodeKeepsCommittedBytes,
    /// Everything that a reply promises is on disk before the reply is sent.
    PromiseIsDurable,
    /// A write goes to the end of the log.
    LogHasNoHoles,
    /// A generation means one configuration, and so one designated primary.
    OneConfigurationPerGeneration,
    /// A node that promised a term does nothing for an earlier term and grants this term's vote only once. A campaign
    /// that learns of the promise ends when its term is lower. So terms can be explored one after the other.
    EarlierTermIsOver,
}

/// All invariants.
pub(crate) const INVARIANTS: [Invariant; 9] = [
    Invariant::OneLeaderPerTerm,
    Invariant::LogsMatchWhereHistoriesMatch,
    Invariant::CommittedBytesNeverChange,
    Invariant::CommitIsDurableOnAQuorum,
    Invariant::NodeKeepsCommittedBytes,
    Invariant::PromiseIsDurable,
    Invariant::LogHasNoHoles,
    Invariant::OneConfigurationPerGeneration,
    Invariant::EarlierTermIsOver,
];

impl Invariant {
    /// Name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneLeaderPerTerm => "one_leader_per_term",
            Self::LogsMatchWhereHistoriesMatch => "logs_match_where_histories_match",
            Self::CommittedBytesNeverChange => "committed_bytes_never_change",
            Self::CommitIsDurableOnAQuorum => "commit_is_durable_on_a_quorum",
            Self::NodeKeepsCommittedBytes => "node_keeps_committed_bytes",
            Self::PromiseIsDurable => "promise_is_durable",
            Self::LogHasNoHoles => "log_has_no_holes",
            Self::OneConfigurationPerGeneration => "one_configuration_per_generation",
            Self::EarlierTermIsOver => "earlier_term_is_over",
        }
    }
}
