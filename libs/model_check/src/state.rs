//! [`ClusterState`]: one state of a model, and its hash.

use std::hash::{Hash, Hasher};

use crate::ledger::Ledger;
use crate::link::Link;
use crate::names::{MEMBERS, WRITERS};
use crate::node::Node;
use crate::shared::Shared;
use crate::symmetry;
use crate::writer::Writer;

/// Everything that a step can change or depend on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClusterState {
    pub(crate) nodes: Vec<Shared<Node>>,
    pub(crate) writers: Vec<Shared<Writer>>,
    /// The connection of writer `w` to node `n` is at `w * nodes.len() + n`.
    pub(crate) links: Vec<Shared<Link>>,
    pub(crate) ledger: Shared<Ledger>,
    pub(crate) crashes_left: u8,
    pub(crate) disconnects_left: u8,
    /// The term that is being explored, where one term follows the other.
    pub(crate) term: u64,
    /// False when states that differ only in names count as different.
    pub(crate) symmetry: bool,
}

impl Hash for ClusterState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.fingerprint().hash(hasher);
    }
}

impl ClusterState {
    /// The same number for states that differ only in names, if `symmetry` is set; another one for all others.
    pub(crate) fn fingerprint(&self) -> u64 {
        let counters = [u64::from(self.crashes_left), u64::from(self.disconnects_left), self.term];
        let fingerprint = |swapped: usize| {
            let (columns, common) = self.columns(swapped);
            symmetry::hash(&[&columns.concat(), common.as_slice(), &counters].concat())
        };
        if self.symmetry { fingerprint(0).min(fingerprint(1)) } else { fingerprint(0) }
    }

    /// The hashes of each node's part, in an order that does not depend on names, and the hashes of the rest. `swapped`
    /// is 1 to exchange the writers.
    fn columns(&self, swapped: usize) -> (Vec<Vec<u64>>, Vec<u64>) {
        let nodes = self.nodes.len();
        let mut columns: Vec<Vec<u64>> =
            self.nodes.iter().map(|node| vec![node.fingerprint().common[swapped]]).collect();
        let mut common = vec![self.ledger.fingerprint().common[swapped]];
        // Four nodes are not alike: one is not a member.
        let mut distinguishable = self.symmetry && nodes == MEMBERS;

        for place in 0..WRITERS {
            let writer = place ^ swapped;
            let fingerprint = self.writers[writer].fingerprint();
            distinguishable &= self.writers[writer].campaign.is_none() || fingerprint.columns.len() == nodes;
            common.push(fingerprint.common[swapped]);
            for (node, column) in columns.iter_mut().enumerate() {
                column.push(fingerprint.columns.get(node).map_or(0, |pair| pair[swapped]));
                column.push(self.links[writer * nodes + node].fingerprint().common[swapped]);
            }
        }

        if distinguishable {
            columns.sort_unstable();
        }
        (columns, common)
    }
}
