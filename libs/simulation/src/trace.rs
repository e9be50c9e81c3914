//! [`Trace`]: record of a schedule, as a hash that two runs of a seed must agree on, and as text on demand.

use std::fmt;

/// FNV-1a, 64 bits: stable over builds, which `std`'s hashers do not promise.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// Running hash of a schedule, and its lines of text when they are kept.
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) const fn new(keep_lines: bool) -> Self {
        Self { hash: OFFSET_BASIS, lines: if keep_lines { Some(Vec::new()) } else { None } }
    }

    /// Adds numbers that must be the same in every run of the seed.
    pub(crate) fn mix(&mut self, numbers: &[u64]) {
        for byte in numbers.iter().flat_map(|number| number.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Adds a line of text, which is formatted only when lines are kept.
    pub(crate) fn line(&mut self, text: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            lines.push(text.to_string());
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
