//! [`Ledger`]: facts that an observer of the whole cluster has recorded.

use consensus::Configuration;
use wal_types::Term;

use crate::invariant::Invariant;
use crate::record::Record;
use crate::shared::Fingerprinted;
use crate::symmetry::Fingerprint;

/// Facts that an observer of the whole cluster has recorded.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub(crate) struct Ledger {
    /// The longest log that was ever committed.
    pub(crate) committed: Vec<Record>,
    /// True for each term in which a campaign was elected, by number.
    pub(crate) elected: Vec<bool>,
    /// Voting sets of the newest decided configuration, by index of node. A commit needs a majority of at least one of
    /// them.
    pub(crate) voters: Vec<Vec<usize>>,
    /// Decided configurations.
    pub(crate) decided: Vec<Configuration>,
    /// Configurations that a node ever held, with the term that wrote them. Nodes may report any of them in a pre-vote.
    pub(crate) configurations: Vec<(Term, Configuration)>,
    /// The invariant that a step has broken.
    pub(crate) violated: Option<Invariant>,
}

impl Fingerprinted for Ledger {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}
