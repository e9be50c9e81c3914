//! Peers and tools of benches, as processes: what Holdfast is compared with, and what makes the load.

pub(crate) mod c_program;
pub(crate) mod link;
pub(crate) mod pgbench;
pub(crate) mod primary;
pub(crate) mod replicated;
