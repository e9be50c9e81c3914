//! How much clients may ask for, and from where they may come.

pub(crate) mod allowlist;
mod client_network;
pub(crate) mod connections;
pub(crate) mod failed_logins;
pub(crate) mod limits_file;
pub(crate) mod rate_limit;
