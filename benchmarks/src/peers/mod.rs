//! Peers and tools of benches, as processes: what Holdfast is compared with, and what makes the load.

pub(crate) mod pgbench;
pub(crate) mod primary;
