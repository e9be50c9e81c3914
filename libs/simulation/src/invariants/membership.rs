//! Who votes, and who may write.

use std::collections::BTreeSet;

use consensus::Configuration;
use wal_types::{Generation, NodeId};

use super::{Oracle, Sets, Violation, ensure, has_majorities};

impl Oracle {
    /// S9. Members change from {1,2,3} to {3,4,5} in one step: {1,2} go on committing for the old primary while {4,5}
    /// elect the new one. Kept here: every set of nodes that elected or committed anything, under the voting sets that
    /// its leader acted under, and from which sets leaders went over to which. Any two under the same sets, or under
    /// sets of which one followed the other, share a node.
    pub(crate) fn quorums_of_neighbouring_configurations_intersect(
        &mut self,
        sets: Sets,
        quorum: BTreeSet<NodeId>,
        steps: impl IntoIterator<Item = (Sets, Sets)>,
    ) -> Result<(), Violation> {
        let quorum: Vec<NodeId> = quorum.into_iter().collect();
        let mut suspects: Vec<Sets> = steps
            .into_iter()
            .filter(|step| self.steps.insert(step.clone()))
            .flat_map(|(a, b)| [a, b])
            .collect();
        if self.quorums.entry(sets.clone()).or_default().insert(quorum) {
            suspects.push(sets);
        }
        for sets in suspects {
            self.intersect_with_neighbours(&sets)?;
        }
        Ok(())
    }

    fn intersect_with_neighbours(&self, sets: &Sets) -> Result<(), Violation> {
        let steps = self.steps.iter().filter_map(|(before, after)| match () {
            () if before == sets => Some(after),
            () if after == sets => Some(before),
            () => None,
        });
        let quorums = |sets: &Sets| self.quorums.get(sets).into_iter().flatten().cloned().collect::<Vec<_>>();
        for neighbour in steps.chain([sets]) {
            for (one, other) in quorums(sets)
                .iter()
                .flat_map(|one| quorums(neighbour).into_iter().map(move |other| (one.clone(), other)))
            {
                ensure(
                    "quorums_of_neighbouring_configurations_intersect",
                    one.iter().any(|node| other.contains(node)),
                    || {
                        format!(
                            "{one:?} decided under {sets:?}, {other:?} under {neighbour:?}, which is one step away"
                        )
                    },
                )?;
            }
        }
        Ok(())
    }

    /// True when a leader said that a configuration of this generation is decided.
    pub(crate) fn has_decided(&self, generation: Generation) -> bool {
        self.decided.contains_key(&generation)
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
