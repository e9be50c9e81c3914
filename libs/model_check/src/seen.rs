//! [`Seen`]: memory of a check besides the states.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use crate::node::term_of;
use crate::record::Record;
use crate::shared::{Fingerprinted, Shared};
use crate::state::ClusterState;
use crate::symmetry::{Fingerprint, hash};

/// Fingerprints of the parts of states that were checked. The same node is part of very many states.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) parts: Mutex<HashSet<u64>>,
    /// States of all nodes together, when the caller asked for them.
    pub(crate) joint: Option<Mutex<BTreeSet<u64>>>,
}

impl Seen {
    /// Remembers the part; true when it was not checked before.
    pub(crate) fn is_new(&self, part: &Shared<impl Fingerprinted>) -> bool {
        let fingerprint = part.fingerprint();
        let words: Vec<u64> =
            fingerprint.columns.iter().map(|pair| pair[0]).chain([fingerprint.common[0]]).collect();
        self.parts.lock().insert(hash(&words))
    }

    /// Records the state of all nodes together, without names and promises.
    pub(crate) fn record_joint_state(&self, state: &ClusterState) {
        let Some(joint) = &self.joint else { return };
        // The time when a record was written but not sent makes no difference: a record is named by the first term that
        // sent it.
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
