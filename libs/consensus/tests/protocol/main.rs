//! Tests of acceptor and proposer through their public API: message in, effects or actions out.

#![expect(clippy::unwrap_used, reason = "a test that panics has reported its finding")]

mod acceptor;
mod cluster;
mod dialects;
mod hostile;
mod hostile_acceptors;
mod loss;
mod membership;
mod promotions;
mod proposer;
