//! [`Seen`]: what a check remembers beside the states.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use crate::node::term_of;
use crate::record::Record;
use crate::shared::{Printed, Shared};
use crate::state::State;
use crate::symmetry::{Print, hash};

/// Parts of states that were checked, by print: the same node is part of very many states.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) parts: Mutex<HashSet<u64>>,
    /// What nodes held together, when somebody wants to know.
    pub(crate) together: Option<Mutex<BTreeSet<u64>>>,
}

impl Seen {
    /// True the first time that this part is shown.
    pub(crate) fn is_new(&self, part: &Shared<impl Printed>) -> bool {
        let print = part.print();
        let words: Vec<u64> = print.columns.iter().map(|pair| pair[0]).chain([print.common[0]]).collect();
        self.parts.lock().insert(hash(&words))
    }

    /// Takes down what the nodes hold together, whatever their names are, without promises.
    pub(crate) fn note(&self, state: &State) {
        let Some(together) = &self.together else { return };
        // When a record was first written, and never sent, is no difference: it is named by the first term that sent it.
        let name = |index: usize, record: Record| {
            let holders = state.nodes.iter().filter(|node| node.log().get(index) == Some(&record));
            holders.filter_map(|node| term_of(&node.acceptor.state().history, index)).min()
        };
        let printed: Vec<Print> = state.nodes.iter().map(|node| Print::of_node(&node.held(name))).collect();
        let print = |swapped: usize| {
            let mut nodes: Vec<u64> = printed.iter().map(|print| print.common[swapped]).collect();
            nodes.sort_unstable();
            hash(&nodes)
        };
        together.lock().insert(print(0).min(print(1)));
    }
}
