//! Other proxy processes on this machine: what one asks them ([`Peers`]) and how that is written ([`wire`]).

mod client;
pub(crate) mod wire;

pub(crate) use self::client::{Peers, check_account, own_account, with_suffix};
pub(crate) use self::wire::Used;
