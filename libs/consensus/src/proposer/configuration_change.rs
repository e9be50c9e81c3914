//! [`ConfigurationChange`]: what an operator asks a leader to change, and why a change does not begin.

use thiserror::Error;
use wal_types::{Generation, NodeId};

use crate::configuration::{InvalidConfiguration, Member, Primary};

/// A step from one configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfigurationChange {
    /// Other members vote, by way of a joint configuration. A member without a copy means the copy that is a member
    /// already, or else the one that the safekeeper greeted with.
    Members(Vec<Member>),
    /// Another primary writes. This proposer's primary must stop when the change is decided.
    Primary(Primary),
}

/// Why a change did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ChangeRefused {
    /// Only a leader changes a configuration.
    #[error("this proposer does not lead")]
    NotLeading,
    /// One step at a time: a later proposer must find at most one configuration that is not decided.
    #[error("configuration of generation {0} is not decided yet")]
    Undecided(Generation),
    /// The new configuration breaks a rule that every node relies on.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// The old or the new configuration lists no member.
    #[error("a log needs at least one member")]
    NoMembers,
    /// It is not known which copy the safekeeper has.
    #[error("safekeeper {0} has not answered yet, so its copy of the log is unknown")]
    NoCopy(NodeId),
    /// The configuration is already the wanted one.
    #[error("nothing would change")]
    NoChange,
    /// No higher generation can be represented.
    #[error("generations are exhausted")]
    Exhausted,
}
