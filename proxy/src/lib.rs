//! proxy

pub mod scram;
