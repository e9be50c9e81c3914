//! Results of a request to change the configuration: accepted or refused. No behaviour.
//!
//! Shared by `campaign`, which carries a change out, `admin_requests`, which passes it on, and `http`.

use consensus::{ChangeRefused, MEMBERS_MAX};
use thiserror::Error;
use wal_types::{Generation, NodeId};

/// Most safekeepers that a campaign connects to: the members of a joint configuration, and as many that were just
/// removed. A safekeeper that reports configurations must not make the walproposer dial arbitrarily many addresses.
pub(crate) const FOLLOWERS_MAX: usize = 4 * MEMBERS_MAX;

/// A change that has begun, or needs no beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeAccepted {
    /// The change is carried out; the configuration has this generation when it is decided.
    Begun(Generation),
    /// The configuration of this generation already is as requested.
    Already(Generation),
}

/// Reason for which a change did not begin.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    #[error("the change to generation {0} is under way: wait for its end, see change in GET /v1/status")]
    UnderWay(Generation),
    #[error("safekeeper {0} has no usable host and port")]
    Address(NodeId),
    #[error("at most {FOLLOWERS_MAX} safekeepers can be connected at a time")]
    TooManyFollowers,
}
