//! [`Invariant`]: what must hold in every reachable state. Named as in the simulation where it is the same.

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// Two campaigns are never elected in one term.
    OneLeaderPerTerm,
    /// Where two histories name the same term for the same position, the logs are equal up to there.
    LogsMatchWhereHistoriesMatch,
    /// What was committed is a beginning of whatever is committed later, and of the log of every later leader.
    CommittedBytesNeverChange,
    /// What was committed is durable on a majority of the voters, then and ever after.
    CommitIsDurableOnAQuorum,
    /// A commit position that a node knows was decided, never goes back, is never cut, and names the committed bytes.
    NodeKeepsCommittedBytes,
    /// What an answer promises is on disk before the answer is given.
    PromiseIsDurable,
    /// A write goes to the end of the log.
    LogHasNoHoles,
    /// A generation stands for one configuration, and with it for one designated primary.
    OneConfigurationPerGeneration,
    /// A node that promised a term does nothing for an earlier one and gives this term's vote to nobody else, and whoever
    /// hears of its promise gives up an earlier term. That is what allows to explore one term after the other.
    EarlierTermIsOver,
}

/// All of them.
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
    /// Its name in the output.
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
