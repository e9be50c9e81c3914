//! [`Membership`]: the configuration that a proposer acts under.

use std::cmp::Ordering;

use wal_types::{Generation, Lsn, NodeId, PrimaryId, Term};

use super::LostTerm;
use crate::configuration::Configuration;

/// Who votes, as far as this proposer knows, and how far a change has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Membership {
    /// None before the first greeting.
    configuration: Option<Configuration>,
    /// Term of the proposer that wrote it.
    term: Term,
    /// A quorum holds it under our own term.
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

    /// The voting sets: the configuration's, or simply everybody where nothing is managed.
    pub(super) fn sets(&self, everybody: &[NodeId]) -> Vec<Vec<NodeId>> {
        let sets = self.configuration.as_ref().map(Configuration::sets).unwrap_or_default();
        if sets.is_empty() { vec![everybody.to_vec()] } else { sets }
    }

    /// Takes in what a safekeeper holds. The newest counts as long as nobody was asked for a vote under another one.
    ///
    /// Two of the same term and generation must be the same: who decides would otherwise depend on who spoke last.
    pub(super) fn learn(
        &mut self,
        by: NodeId,
        (term, told): (Term, Configuration),
        surveying: bool,
    ) -> Result<(), LostTerm> {
        let generation = told.generation;
        let Some(known) = &self.configuration else {
            (self.configuration, self.term) = (Some(told), term);
            return Ok(());
        };
        match (term, generation).cmp(&(self.term, known.generation)) {
            Ordering::Greater if surveying => (self.configuration, self.term) = (Some(told), term),
            Ordering::Greater => return Err(LostTerm::Reconfigured { by, generation }),
            Ordering::Equal if told != *known => return Err(LostTerm::TwoConfigurations { by, generation }),
            Ordering::Equal | Ordering::Less => {}
        }
        Ok(())
    }

    /// The leader of `term` acts under `next` from now on; nobody holds it yet.
    pub(super) fn propose(&mut self, term: Term, next: Configuration, floor: Lsn) {
        *self = Self { configuration: Some(next), term, decided: false, floor };
    }
}
