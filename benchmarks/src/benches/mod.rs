//! The benches. Each file says what it compares, lists its goals, and measures.

mod wal_commit;

use crate::bench::Bench;

/// All benches in the order of the document.
pub(crate) const ALL: &[Bench] = &[wal_commit::BENCH];
