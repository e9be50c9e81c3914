//! Load generators for safekeepers: a proposer, readers, WAL to push, and probes of the disk.

pub(crate) mod link;
pub(crate) mod nodes;
pub(crate) mod probe;
pub(crate) mod pusher;
pub(crate) mod reader;
pub(crate) mod receivers;
pub(crate) mod socket;
pub(crate) mod source;
