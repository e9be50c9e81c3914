//! Peers and tools of benches, as processes: what Holdfast is compared with, and what makes the load.

pub(crate) mod c_program;
pub(crate) mod database;
pub(crate) mod link;
pub(crate) mod middle;
pub(crate) mod pg_load;
pub(crate) mod pgbench;
pub(crate) mod primary;
pub(crate) mod replicated;
