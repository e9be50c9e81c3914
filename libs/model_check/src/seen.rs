//! [`Seen`]: what a check remembers beside the states.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use crate::node::term_of;
use crate::record::Record;
use crate::shared::{Fingerprinted, Shared};
use crate::state::ClusterState;
use crate::symmetry::{Fingerprint, hash};

/// Parts of states that were checked, by print: the same node is part of very many states.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) parts: Mutex<HashSet<u64>>,
    /// What nodes held together, when somebody wants to know.
    pub(crate) joint: Option<Mutex<BTreeSet<u64>>>,
}

impl Seen {
    /// True the first time that this part is shown.
    pub(crate) fn is_new(&self, part: &Shared<impl Fingerprinted>) -> bool {
        let fingerprint = part.fingerprint();
        let words: Vec<u64> =
            fingerprint.columns.iter().map(|pair| pair[0]).chain([fingerprint.common[0]]).collect();
        self.parts.lock().insert(hash(&words))
    }

    /// Takes down what the nodes hold together, whatever their names are, without promises.
    pub(crate) fn record_joint_state(&self, state: &ClusterState) {
        let Some(joint) = &self.joint else { return };
        // When a record was first written, and never sent, is no difference: it is named by the first term that sent it.
        let name = |index: usize, record: Record| {
            let holders = state.nodes.iter().filter(|node| node.log().get(index) == Some(&record));
            holders.filter_map(|node| term_of(&node.acceptor.state().history, index)).min()
        };
        let fingerprints: Vec<Fingerprint> =
            state.nodes.iter().map(|node| Fingerprint::of_node(&node.held(name))).collect();
        let fingerprint = |swapped: usize| {
            let mut nodes: Vec<u64> =
                fingerprints.iter().map(|fingerprint| fingerprint.common[swapped]).collect();
            nodes.sort_unstable();
            hash(&nodes)
        };
        joint.lock().insert(fingerprint(0).min(fingerprint(1)));
    }
}
