//! What an operator can see: metrics, phases of a login, open connections, and the record of each session.

pub(crate) mod activity;
pub(crate) mod cache_metrics;
pub(crate) mod metrics;
pub(crate) mod phases;
pub(crate) mod session_record;
pub(crate) mod thread_metrics;
pub(crate) mod traffic_metrics;
