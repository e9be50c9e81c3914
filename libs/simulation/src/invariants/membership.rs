//! Invariants of membership: configurations, quorums, designated primaries.

use std::collections::BTreeSet;

use consensus::{Configuration, Primary};
use wal_types::{Generation, NodeId, Term};

use super::{Oracle, Violation, VotingSets, ensure, has_majorities, list_nodes, list_sets};

impl Oracle {
    /// S9 excludes: members change from {1,2,3} to {3,4,5} in one step: {1,2} still commit for the old primary while
    /// {4,5} elect the new one. The oracle keeps every set of nodes that elected or committed anything, with the voting
    /// sets that its leader acted under, and the changes from one voting set to the next. Any two quorums under the
    /// same sets, or under sets of which one followed the other, must share a node.
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
                        let (one, sets) = (list_nodes(&one), list_sets(sets));
                        let (other, neighbour) = (list_nodes(&other), list_sets(neighbour));
                        format!("{one} decided under {sets}, {other} under the neighbour {neighbour}")
                    },
                )?;
            }
        }
        Ok(())
    }

    /// True when a leader reported a configuration of this generation as decided.
    pub(crate) fn has_decided(&self, generation: Generation) -> bool {
        self.decided.contains_key(&generation)
    }

    /// S10 excludes: two operators move generation 7 to 8 at once; one reaches one node, the other reaches two.
    /// Generation 8 then means two member lists, or two designated primaries. `holders` are the nodes with the
    /// configuration on disk.
    pub(crate) fn one_configuration_per_generation(
        &mut self,
        configuration: &Configuration,
        holders: &BTreeSet<NodeId>,
    ) -> Result<(), Violation> {
        let name = "one_configuration_per_generation";
        let generation = configuration.generation;
        let first = self.decided.entry(generation).or_insert_with(|| configuration.clone());
        ensure(name, first == configuration, || {
            let describe =
                |one: &Configuration| format!("{} with primary {:?}", list_sets(&one.sets()), one.primary);
            let (first, other) = (describe(first), describe(configuration));
            format!("generation {generation} was decided as {first}, and as {other}")
        })?;
        ensure(name, has_majorities(&configuration.sets(), holders), || {
            let (holders, sets) = (list_nodes(holders), list_sets(&configuration.sets()));
            format!(
                "generation {generation} is reported decided: {holders} persisted it, no majority of {sets}"
            )
        })
    }

    /// S10, second half, excludes: a standby is promoted and designated, so that the old primary stops, and its clients
    /// learn the new address. The old primary was only paused: it campaigns in a higher term with the same log, leads,
    /// and keeps the clients that did not learn of the other.
    ///
    /// A designation that was decided under term 5 is known to at least one voter of every higher term. So the leader
    /// of a higher term with WAL of its own is the designated primary, or one that a leader was told to designate
    /// since. (That newer designation may be undecided now; it is decided when the term commits.) Lower terms may
    /// continue until they are deposed, and recoveries may lead: they add no WAL.
    pub(crate) fn only_the_designated_primary_writes(&self) -> Result<(), Violation> {
        for (&term, &writes) in &self.writes {
            let newest = self.designated.range(..term).next_back();
            let Some((&decided, &(generation, designated))) = newest else { continue };
            let is_designated_later = |&(at, step, primary): &(Term, Generation, Primary)| {
                (at, step) > (decided, generation) && at < term && primary == writes
            };
            let may = writes == designated || self.designations.iter().any(is_designated_later);
            ensure("only_the_designated_primary_writes", may, || {
                format!("term {term} takes the WAL of {writes}; term {decided} had designated {designated}")
            })?;
        }
        Ok(())
    }

    /// Records the primary that leads a term.
    pub(crate) fn record_term_primary(&mut self, term: Term, primary: Primary) {
        self.writes.insert(term, primary);
    }

    /// Records that the leader of `term` was told to designate `primary`.
    pub(crate) fn record_designation(&mut self, term: Term, generation: Generation, primary: Primary) {
        self.designations.insert((term, generation, primary));
    }

    /// Records the designated primary of a configuration that the leader of `term` reports as decided.
    pub(crate) fn record_decided_primary(&mut self, term: Term, configuration: &Configuration) {
        let Some(primary) = configuration.primary else { return };
        let newest = self.designated.entry(term).or_insert((configuration.generation, primary));
        if newest.0 < configuration.generation {
            *newest = (configuration.generation, primary);
        }
    }
}
