//! [`Ledger`]: what an observer wrote down who sees everything.

use consensus::Configuration;
use wal_types::Term;

use crate::invariant::Invariant;
use crate::record::Record;
use crate::shared::Fingerprinted;
use crate::symmetry::Fingerprint;

/// What an observer wrote down who sees everything.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub(crate) struct Ledger {
    /// The longest log that was ever committed.
    pub(crate) committed: Vec<Record>,
    /// Terms in which somebody was elected, by number.
    pub(crate) elected: Vec<bool>,
    /// Voting sets, by index of node: of the newest configuration that was decided. A commit needs one of them at least.
    pub(crate) voters: Vec<Vec<usize>>,
    /// Configurations that were decided.
    pub(crate) decided: Vec<Configuration>,
    /// Configurations that a node ever held, and the terms that wrote them. A survey may hear each of them.
    pub(crate) configurations: Vec<(Term, Configuration)>,
    /// What a step has broken.
    pub(crate) violated: Option<Invariant>,
}

impl Fingerprinted for Ledger {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}
