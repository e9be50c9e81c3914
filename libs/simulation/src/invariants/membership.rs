//! Who votes, and who may write.

use std::collections::BTreeSet;

use consensus::Configuration;
use wal_types::{Generation, NodeId, PrimaryId, Term};

use super::{Oracle, Violation, VotingSets, ensure, has_majorities};

impl Oracle {
    /// S9. Members change from {1,2,3} to {3,4,5} in one step: {1,2} go on committing for the old primary while {4,5}
    /// elect the new one. Kept here: every set of nodes that elected or committed anything, under the voting sets that
    /// its leader acted under, and from which sets leaders went over to which. Any two under the same sets, or under
    /// sets of which one followed the other, share a node.
    pub(crate) fn quorums_of_neighbouring_configurations_intersect(
        &mut self,
        sets: VotingSets,
        quorum: BTreeSet<NodeId>,
        steps: impl IntoIterator<Item = (VotingSets, VotingSets)>,
    ) -> Result<(), Violation> {
        let quorum: Vec<NodeId> = quorum.into_iter().collect();
        let mut suspects: Vec<VotingSets> = steps
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

    fn intersect_with_neighbours(&self, sets: &VotingSets) -> Result<(), Violation> {
        let steps = self.steps.iter().filter_map(|(before, after)| match () {
            () if before == sets => Some(after),
            () if after == sets => Some(before),
            () => None,
        });
        let quorums =
            |sets: &VotingSets| self.quorums.get(sets).into_iter().flatten().cloned().collect::<Vec<_>>();
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

    /// S10, second half. A standby is promoted, and designated lest the old primary go on; its clients are told where to
    /// write. The old one was only paused: it campaigns in a higher term with the same log, leads, and takes the clients
    /// back that never heard of the other.
    ///
    /// A designation was decided under term 5: then who votes for a higher term has one among them that knows it, and
    /// whoever leads that term with WAL of its own is the designated primary, or one that a leader was told to designate
    /// since (which may not be decided yet: it is by the time that the term commits). Lower terms may go on until they are
    /// deposed, and recoveries may lead: they add no WAL.
    pub(crate) fn only_the_designated_primary_writes(&self) -> Result<(), Violation> {
        for (&term, &writes) in &self.writes {
            let newest = self.designated.range(..term).next_back();
            let Some((&decided, &(generation, designated))) = newest else { continue };
            let is_told = |&(at, step, told): &(Term, Generation, PrimaryId)| {
                (at, step) > (decided, generation) && at < term && told == writes
            };
            let may = writes == designated || self.designations.iter().any(is_told);
            ensure("only_the_designated_primary_writes", may, || {
                format!("term {term} takes the WAL of {writes}; term {decided} had designated {designated}")
            })?;
        }
        Ok(())
    }

    /// A primary leads a term.
    pub(crate) fn record_term_primary(&mut self, term: Term, primary: PrimaryId) {
        self.writes.insert(term, primary);
    }

    /// The leader of `term` was told to let only `primary` write.
    pub(crate) fn record_designation(&mut self, term: Term, generation: Generation, primary: PrimaryId) {
        self.designations.insert((term, generation, primary));
    }

    /// The leader of `term` says that `configuration` is decided.
    pub(crate) fn record_decided_primary(&mut self, term: Term, configuration: &Configuration) {
        let Some(primary) = configuration.primary else { return };
        let newest = self.designated.entry(term).or_insert((configuration.generation, primary));
        if newest.0 < configuration.generation {
            *newest = (configuration.generation, primary);
        }
    }
}
