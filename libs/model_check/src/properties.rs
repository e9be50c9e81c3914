//! Checks of each [`Invariant`] on a state.

use crate::earlier;
use crate::invariant::Invariant;
use crate::node::{Node, term_of};
use crate::record::records_below;
use crate::seen::Seen;
use crate::state::ClusterState;

/// True when `state` does not contradict the invariant. A violation that only a step can show is in the ledger.
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

/// True when two logs match as far as their histories do. Compares record by record, independent of the rule by which
/// nodes find where logs part.
fn logs_match(one: &Node, other: &Node) -> bool {
    let (these, those) = (one.log(), other.log());
    let last_common = (0..these.len().min(those.len())).rev().find(|&record| {
        let term = term_of(&one.acceptor.state().history, record);
        term.is_some() && term == term_of(&other.acceptor.state().history, record)
    });
    last_common.is_none_or(|record| these[..=record] == those[..=record])
}
