//! [`Invariant`]: what must hold in every reachable state. Named as in the simulation where it is the same.

use consensus::TermHistory;

use crate::cluster::{Cluster, State};
use crate::earlier;
use crate::node::Node;
use crate::record::{lsn, records_below};

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

    /// True when `state` shows nothing against it. What only a step can show was written down by the step.
    pub(crate) fn holds(self, model: &Cluster, state: &State) -> bool {
        if state.ledger.broken == Some(self) {
            return false;
        }
        match self {
            Self::LogsMatchWhereHistoriesMatch => {
                let nodes = &state.nodes;
                (1..nodes.len()).all(|one| (0..one).all(|other| logs_match(&nodes[one], &nodes[other])))
            }
            Self::CommitIsDurableOnAQuorum => {
                let committed = &state.ledger.committed;
                let holds = |node: usize| state.nodes[node].holds(committed);
                state
                    .ledger
                    .voters
                    .iter()
                    .any(|set| set.iter().filter(|&&node| holds(node)).count() > set.len() / 2)
            }
            Self::NodeKeepsCommittedBytes => state.nodes.iter().all(|node| {
                let known = records_below(node.acceptor.state().commit_lsn);
                state.ledger.committed.get(..known).is_some_and(|committed| node.holds(committed))
            }),
            Self::EarlierTermIsOver => {
                model.seen.note(state);
                let nodes = state
                    .nodes
                    .iter()
                    .all(|node| !model.seen.is_new(node) || earlier::is_over_for_node(node));
                let mut writers = state.writers.iter();
                nodes
                    && writers.all(|writer| !model.seen.is_new(writer) || earlier::is_over_for_writer(writer))
            }
            _ => true,
        }
    }
}

/// Compares record by record, and does not rely on the rule by which the nodes themselves find where logs part.
fn logs_match(one: &Node, other: &Node) -> bool {
    let (ours, theirs) = (one.log(), other.log());
    let last_common = (0..ours.len().min(theirs.len())).rev().find(|&record| {
        let term = term_of(&one.acceptor.state().history, record);
        term.is_some() && term == term_of(&other.acceptor.state().history, record)
    });
    last_common.is_none_or(|record| ours[..=record] == theirs[..=record])
}

/// Who wrote a record, as far as the history still tells.
pub(crate) fn term_of(history: &TermHistory, record: usize) -> Option<u64> {
    history.entries().iter().rev().find(|entry| entry.start <= lsn(record)).map(|entry| entry.term.0)
}
