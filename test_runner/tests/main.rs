//! Tests of the whole cluster, driven from outside: one file per story.

mod bad_input;
mod chaos;
mod clients;
mod crash;
mod dev_commands;
mod holdfast;
mod loss;
mod members;
mod metrics;
mod network;
mod primary;
mod proxy;
mod quorum;
mod repair;
mod replicas;
mod slots;
mod system_calls;
mod unsafe_primary;
mod up;
