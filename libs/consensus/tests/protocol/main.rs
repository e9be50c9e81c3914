//! The rules of acceptor and proposer, as stories over values.

#![expect(clippy::unwrap_used, reason = "a test that panics has reported its finding")]

mod acceptor;
mod cluster;
mod hostile;
mod hostile_acceptors;
mod loss;
mod membership;
mod proposer;
mod rules;
