//! [`ConnectionId`]: name of one connection.

/// One connection of a proposer to an acceptor, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);
