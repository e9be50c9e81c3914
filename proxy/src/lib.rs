//! proxy

mod control_plane;
mod metrics;
mod route;
pub mod scram;
mod tls;
