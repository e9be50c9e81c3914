//! What each [`Invariant`] asks of a state.

use crate::earlier;
use crate::invariant::Invariant;
use crate::node::{Node, term_of};
use crate::record::records_below;
use crate::seen::Seen;
use crate::state::ClusterState;

/// True when `state` shows nothing against it. What only a step can show was written down by the step.
pub(crate) fn holds(invariant: Invariant, seen: &Seen, state: &ClusterState) -> bool {
    if state.ledger.violated == Some(invariant) {
        return false;
    }
    match invariant {
        Invariant::LogsMatchWhereHistoriesMatch => {
            let nodes = &state.nodes;
            (1..nodes.len()).all(|one| (0..one).all(|other| logs_match(&nodes[one], &nodes[other])))
        }
        Invariant::CommitIsDurableOnAQuorum => {
            let committed = &state.ledger.committed;
            let holds = |node: usize| state.nodes[node].holds(committed);
            state
                .ledger
                .voters
                .iter()
                .any(|set| set.iter().filter(|&&node| holds(node)).count() > set.len() / 2)
        }
        Invariant::NodeKeepsCommittedBytes => state.nodes.iter().all(|node| {
            let known = records_below(node.acceptor.state().commit_lsn);
            state.ledger.committed.get(..known).is_some_and(|committed| node.holds(committed))
        }),
        Invariant::EarlierTermIsOver => {
            seen.record_joint_state(state);
            let nodes = state.nodes.iter().all(|node| !seen.is_new(node) || earlier::is_over_for_node(node));
            let mut writers = state.writers.iter();
            nodes && writers.all(|writer| !seen.is_new(writer) || earlier::is_over_for_writer(writer))
        }
        _ => true,
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
