//! [`SnapshotParts`]: the parts of a snapshot that change seldom, shared by all snapshots until they change.

use std::sync::Arc;

use consensus::{Acceptor, Configuration, Lineage, TermHistory, TliSwitch};
use wal_types::Tli;

/// Parts of the acceptor's state behind `Arc`s, so that a snapshot after each batch copies no lists.
pub(super) struct SnapshotParts {
    pub(super) history: Arc<TermHistory>,
    pub(super) tli_switches: Arc<[TliSwitch]>,
    pub(super) lineage: Arc<Lineage>,
    pub(super) configuration: Arc<Configuration>,
    /// Highest PostgreSQL timeline that the log may hold pages of.
    pub(super) highest_tli: Tli,
}

impl SnapshotParts {
    /// Copies the parts from the acceptor. Called after each change of its persistent state.
    pub(super) fn of(acceptor: &Acceptor) -> Self {
        let state = acceptor.state();
        Self {
            history: state.history.clone().into(),
            tli_switches: state.tli_switches.clone().into(),
            lineage: acceptor.lineage().clone().into(),
            configuration: state.configuration.clone().into(),
            highest_tli: state.highest_tli(acceptor.lineage()),
        }
    }
}
