//! The life of the process: its drain, its replacement by another process, reloads, and restarts of background tasks.

pub(crate) mod drain;
pub(crate) mod handover;
pub(crate) mod reload;
pub(crate) mod supervise;
