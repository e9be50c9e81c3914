//! Limits: how many connections, logins and wakes clients may cause, and from which addresses.

pub(crate) mod allowlist;
mod client_network;
pub(crate) mod connections;
pub(crate) mod failed_logins;
pub(crate) mod limits_file;
pub(crate) mod rate_limit;
