//! Quantities: what a bench measures, with its unit and the direction that is better.

use serde::{Deserialize, Serialize};

/// Direction in which a quantity is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    /// More is better, as for throughput.
    Higher,
    /// Less is better, as for time and memory.
    Lower,
}

/// A measured quantity. Benches name theirs as constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Its unit (`1/s`, `µs`, `KiB`).
    pub(crate) unit: &'static str,
    /// The direction that is better.
    pub(crate) better: Better,
}

impl Quantity {
    /// A quantity of which less is better.
    pub(crate) const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Lower }
    }

    /// A quantity of which more is better.
    pub(crate) const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Higher }
    }
}
