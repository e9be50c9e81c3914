//! Results of a request to change the configuration: accepted or refused. No behaviour.
//!
//! Shared by `campaign`, which carries the change out, `admin_requests`, which passes it on, and `http`.

use consensus::{ChangeRefused, MEMBERS_MAX};
use thiserror::Error;
use wal_types::{Generation, NodeId};

/// Most safekeepers that are talked to: members of a joint configuration, and as many that just left. Whoever tells us
/// configurations must not make us dial the world.
pub(crate) const FOLLOWERS_MAX: usize = 4 * MEMBERS_MAX;

/// An order that is carry_over out from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeAccepted {
    /// The log has this generation when it is done.
    Begun(Generation),
    /// Everything is so already, under this generation.
    Already(Generation),
}

/// Why a change did not begin.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    #[error("the change to generation {0} is under way: see /v1/status, and wait for its end")]
    UnderWay(Generation),
    #[error("safekeeper {0} has no usable host and port")]
    Address(NodeId),
    #[error("at most {FOLLOWERS_MAX} safekeepers can be talked to")]
    TooManyFollowers,
}
