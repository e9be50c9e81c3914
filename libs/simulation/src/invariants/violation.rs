//! [`Violation`]: an invariant that did not hold.

use std::fmt;

use wal_types::NodeId;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the invariant.
    pub invariant: &'static str,
    /// The facts that contradict it.
    pub detail: String,
}

impl Violation {
    /// True when the cluster only makes no progress. More failures than it survives may do that, and nothing else.
    pub(crate) fn is_of_liveness(&self) -> bool {
        LIVENESS.contains(&self.invariant)
    }
}

/// Invariants of `liveness` that more failures than a cluster survives may violate.
const LIVENESS: [&str; 3] =
    ["recovery_finishes", "healed_cluster_commits_and_catches_up", "rightful_leader_leads"];

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Ok when `holds`; else the violation of `invariant`, with its detail.
pub(crate) fn ensure(
    invariant: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

/// Nodes in the text of a violation: `no node`, `node 1`, or `nodes 1, 2`.
pub(crate) fn list_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let ids: Vec<String> = nodes.into_iter().map(NodeId::to_string).collect();
    match ids.len() {
        0 => "no node".to_owned(),
        1 => format!("node {}", ids[0]),
        _ => format!("nodes {}", ids.join(", ")),
    }
}

/// Voting sets in the text of a violation: `[1, 2, 3]`, or `[1, 2, 3] and [1, 2, 4]` while members change.
pub(crate) fn list_sets(sets: &[Vec<NodeId>]) -> String {
    let list_set = |set: &Vec<NodeId>| {
        let ids: Vec<String> = set.iter().map(NodeId::to_string).collect();
        format!("[{}]", ids.join(", "))
    };
    sets.iter().map(list_set).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_nodes_names_each_node() {
        assert_eq!(list_nodes(&[]), "no node");
        assert_eq!(list_nodes(&[NodeId(1)]), "node 1");
        assert_eq!(list_nodes(&[NodeId(1), NodeId(2)]), "nodes 1, 2");
    }

    #[test]
    fn list_sets_names_each_set() {
        let sets = [vec![NodeId(1), NodeId(2)], vec![NodeId(3)]];
        assert_eq!(list_sets(&sets[..1]), "[1, 2]");
        assert_eq!(list_sets(&sets), "[1, 2] and [3]");
    }
}
