//! [`CommandError`]: why a query is not a command of a safekeeper.

use thiserror::Error;

/// Why a query is not a command of a safekeeper.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum CommandError {
    /// Not in the grammar.
    #[error("{0}")]
    Syntax(String),
    /// A PostgreSQL command that a safekeeper does not implement.
    #[error("{what}")]
    Unsupported {
        /// The feature that is missing here.
        what: &'static str,
        /// Where to get it.
        hint: &'static str,
    },
}
