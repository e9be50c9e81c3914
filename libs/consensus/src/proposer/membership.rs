//! [`Membership`]: the configuration that a proposer acts under.

use std::cmp::Ordering;

use wal_types::{CopyId, Digest, Generation, Lsn, NodeId, ReplicaId, Term};

use super::LostTerm;
use super::peer::ForeignCopy;
use crate::configuration::{Configuration, Primary};

/// The newest configuration that this proposer knows, and the progress of its change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Membership {
    /// `None` before the first greeting.
    configuration: Option<Configuration>,
    /// Term of the proposer that wrote it.
    term: Term,
    /// Birth of the log, as the safekeeper told it that reported the configuration.
    birth: Option<Digest>,
    /// A quorum holds it under this proposer's term.
    pub(super) decided: bool,
    /// While joint: the next members must hold all of the log below before they decide alone.
    pub(super) floor: Lsn,
    /// This proposer wrote it, under its own term. False for one that it found.
    pub(super) begun_here: bool,
}

impl Membership {
    pub(super) const fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    pub(super) fn generation(&self) -> Generation {
        self.configuration.as_ref().map_or(Generation::default(), |configuration| configuration.generation)
    }

    pub(super) fn primary(&self) -> Option<Primary> {
        self.configuration.as_ref().and_then(|configuration| configuration.primary)
    }

    pub(super) fn is_joint(&self) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| !configuration.new_members.is_empty())
    }

    /// The voting sets of the configuration; one set of all `peers` where no configuration is known.
    pub(super) fn voting_sets(&self, peers: impl Iterator<Item = CopyId>) -> Vec<Vec<CopyId>> {
        let sets = self.configuration.as_ref().map(Configuration::voters).unwrap_or_default();
        if sets.is_empty() { vec![peers.collect()] } else { sets }
    }

    /// Why the copy of a safekeeper is none of this log: then it counts for nothing, and is sent nothing.
    pub(super) fn foreign(
        &self,
        node: NodeId,
        replica: ReplicaId,
        birth: Option<Digest>,
    ) -> Option<ForeignCopy> {
        if birth.is_some() && self.birth.is_some() && birth != self.birth {
            return Some(ForeignCopy::OtherBirth);
        }
        let configuration = self.configuration.as_ref()?;
        configuration.lists_other_copy(node, replica).then_some(ForeignCopy::CreatedAnew { found: replica })
    }

    /// Adopts the configuration that safekeeper `by` reported, when it is newer. Fails for a newer one when `may_adopt` is
    /// false: then the campaign goes on under the older one already.
    ///
    /// Two configurations of the same term and generation must be equal: otherwise the members would depend on which
    /// safekeeper answered last.
    pub(super) fn adopt_newest(
        &mut self,
        (by, birth): (NodeId, Option<Digest>),
        (term, reported): (Term, Configuration),
        may_adopt: bool,
    ) -> Result<(), LostTerm> {
        // A copy that no one has told its members says nothing about them.
        if reported.is_unset() {
            return Ok(());
        }
        let generation = reported.generation;
        let Some(known) = &self.configuration else {
            (self.configuration, self.term, self.birth) = (Some(reported), term, birth);
            return Ok(());
        };
        match (term, generation).cmp(&(self.term, known.generation)) {
            Ordering::Greater if may_adopt => {
                (self.configuration, self.term, self.birth) = (Some(reported), term, birth);
            }
            Ordering::Greater => return Err(LostTerm::Reconfigured { by, generation }),
            Ordering::Equal if reported != *known => {
                return Err(LostTerm::TwoConfigurations { by, generation });
            }
            Ordering::Equal | Ordering::Less => {}
        }
        Ok(())
    }

    /// The leader of `term` acts under `next` from now on; no node holds it yet.
    pub(super) fn propose(&mut self, term: Term, next: Configuration, floor: Lsn) {
        let (configuration, birth) = (Some(next), self.birth);
        *self = Self { configuration, term, birth, decided: false, floor, begun_here: true };
    }
}
