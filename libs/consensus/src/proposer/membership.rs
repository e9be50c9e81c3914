//! [`Membership`]: the configuration that a proposer acts under.

use std::cmp::Ordering;

use wal_types::{Generation, Lsn, NodeId, PrimaryId, Term};

use super::LostTerm;
use crate::configuration::Configuration;

/// The newest configuration that this proposer knows, and the progress of its change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Membership {
    /// `None` before the first greeting.
    configuration: Option<Configuration>,
    /// Term of the proposer that wrote it.
    term: Term,
    /// A quorum holds it under this proposer's term.
    pub(super) decided: bool,
    /// While joint: the next members must hold all of the log below before they decide alone.
    pub(super) floor: Lsn,
}

impl Membership {
    pub(super) const fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    pub(super) fn generation(&self) -> Generation {
        self.configuration.as_ref().map_or(Generation::default(), |configuration| configuration.generation)
    }

    pub(super) fn primary(&self) -> Option<PrimaryId> {
        self.configuration.as_ref().and_then(|configuration| configuration.primary)
    }

    pub(super) fn is_joint(&self) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| !configuration.new_members.is_empty())
    }

    /// The voting sets of the configuration; one set of all `peers` where membership is not managed.
    pub(super) fn voting_sets(&self, peers: &[NodeId]) -> Vec<Vec<NodeId>> {
        let sets = self.configuration.as_ref().map(Configuration::sets).unwrap_or_default();
        if sets.is_empty() { vec![peers.to_vec()] } else { sets }
    }

    /// Adopts the configuration that safekeeper `by` reported, when it is newer. Fails for a newer one when `may_adopt` is
    /// false: then the campaign goes on under the older one already.
    ///
    /// Two configurations of the same term and generation must be equal: otherwise the members would depend on which
    /// safekeeper answered last.
    pub(super) fn adopt_newest(
        &mut self,
        by: NodeId,
        (term, reported): (Term, Configuration),
        may_adopt: bool,
    ) -> Result<(), LostTerm> {
        let generation = reported.generation;
        let Some(known) = &self.configuration else {
            (self.configuration, self.term) = (Some(reported), term);
            return Ok(());
        };
        match (term, generation).cmp(&(self.term, known.generation)) {
            Ordering::Greater if may_adopt => (self.configuration, self.term) = (Some(reported), term),
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
        *self = Self { configuration: Some(next), term, decided: false, floor };
    }
}
