//! [`Term`]: ordinal of an election. [`Tli`]: PostgreSQL's timeline number.

use std::fmt;

/// Ordinal of an election. At most one proposer is elected in a term; a higher term wins over a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The term before the first election.
    pub const ZERO: Self = Self(0);

    /// The next higher term; `None` at the end of the range (a peer may claim any number).
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL timeline ID (PostgreSQL documentation, "Timelines"): a label on WAL that changes at a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tli(pub u32);

impl Tli {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: Self = Self(1);
}

impl Default for Tli {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Tli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
