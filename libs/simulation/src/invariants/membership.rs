//! Who votes, and who may write.

use std::collections::BTreeSet;

use consensus::Configuration;
use wal_types::{Generation, NodeId};

use super::{Oracle, Violation, ensure, has_majorities};

impl Oracle {
    /// S9. Members change from {1,2,3} to {3,4,5} in one step: {1,2} go on committing for the old primary while {4,5}
    /// elect the new one. Kept here: every set of nodes that elected or committed anything, under the configuration
    /// that was in force; any two under the same or neighbouring generations share a node.
    pub(crate) fn quorums_of_neighbouring_configurations_intersect(
        &mut self,
        generation: Generation,
        quorum: BTreeSet<NodeId>,
    ) -> Result<(), Violation> {
        let quorum: Vec<NodeId> = quorum.into_iter().collect();
        if !self.quorums.entry(generation).or_default().insert(quorum.clone()) {
            return Ok(());
        }
        let neighbours = Generation(generation.0.saturating_sub(1))..=Generation(generation.0 + 1);
        for (other, quorums) in self.quorums.range(neighbours) {
            let apart = quorums.iter().find(|one| !one.iter().any(|node| quorum.contains(node)));
            ensure("quorums_of_neighbouring_configurations_intersect", apart.is_none(), || {
                format!("{quorum:?} decided under generation {generation}, {apart:?} under {other}")
            })?;
        }
        Ok(())
    }

    /// S10. Two controllers move generation 7 to 8 at once; one reaches one node, the other two. Generation 8 then
    /// means two sets of members, or two designated primaries. `holders` are the nodes on whose disks it is.
    pub(crate) fn one_configuration_per_generation(
        &mut self,
        configuration: &Configuration,
        holders: &BTreeSet<NodeId>,
    ) -> Result<(), Violation> {
        let name = "one_configuration_per_generation";
        let generation = configuration.generation;
        let first = self.decided.entry(generation).or_insert_with(|| configuration.clone());
        ensure(name, first == configuration, || {
            let ids = |one: &Configuration| (one.sets(), one.primary);
            format!("generation {generation} is {:?} and {:?}", ids(first), ids(configuration))
        })?;
        ensure(name, has_majorities(&configuration.sets(), holders), || {
            format!(
                "generation {generation} is called decided, only {holders:?} hold it: {:?}",
                configuration.sets()
            )
        })
    }
}
