//! The rules of acceptor and proposer, as stories over values.

mod acceptor;
mod proposer;
