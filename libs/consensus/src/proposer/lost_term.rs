//! [`LostTerm`]: why a campaign is over.

use thiserror::Error;
use wal_types::{Generation, NodeId, Term};

use crate::configuration::Primary;

/// Why a campaign is over: it has lost its term, or must not win one. The driver drops the proposer; the next attempt is
/// a new campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum LostTerm {
    /// A safekeeper promised a higher term.
    #[error("safekeeper {by} has promised term {term}, above this proposer's term {own}")]
    Deposed {
        /// Safekeeper that reported the higher term.
        by: NodeId,
        /// Term that it promised.
        term: Term,
        /// Term of this proposer.
        own: Term,
    },
    /// Too many safekeepers refused: another campaign of the same term was faster.
    #[error("another proposer took the votes of term {0}")]
    Outvoted(Term),
    /// The members changed while this proposer acted under older ones.
    #[error("safekeeper {by} knows a newer configuration, of generation {generation}")]
    Reconfigured {
        /// Safekeeper that reported the newer configuration.
        by: NodeId,
        /// The newer generation.
        generation: Generation,
    },
    /// Safekeepers have different members under one generation, for example because the operator created the timeline with
    /// different lists.
    #[error(
        "safekeeper {by} lists other members than the others in generation {generation}: \
         stop it, and replace it by one with a new number"
    )]
    TwoConfigurations {
        /// Safekeeper that differs.
        by: NodeId,
        /// The generation.
        generation: Generation,
    },
    /// The log has a designated primary, and this proposer's primary is another one.
    #[error("timeline takes WAL of primary {designated} only")]
    NotDesignated {
        /// Primary that may write.
        designated: Primary,
    },
    /// The configuration has a field of a later release, which this one does not understand.
    #[error(
        "configuration needs a proposer of protocol version holdfast-{0} or later: start a later release"
    )]
    NeedsVersion(u16),
    /// No higher term can be represented.
    #[error("terms are exhausted")]
    Exhausted,
}
