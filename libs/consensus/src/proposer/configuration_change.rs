//! [`ConfigurationChange`]: what an operator asks a leader to change, and why a change does not begin.

use thiserror::Error;
use wal_types::{Generation, Lsn, NodeId};

use crate::configuration::{InvalidConfiguration, Member, Primary};

/// A step from one configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfigurationChange {
    /// Other members vote, by way of a joint configuration. A member without a copy means the copy that is a member
    /// already, or else the one that the safekeeper greeted with.
    Members(Vec<Member>),
    /// The change of members that is under way ends without its new members: the old ones vote alone again.
    Abandon,
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
    /// No members are changing.
    #[error("no change of members is under way that could be left")]
    NotJoint,
    /// The leader found the joint configuration, and a majority of the new members has not accepted it in this term: the
    /// new members may have decided that they vote alone.
    #[error(
        "the change of generation {0} was begun by an earlier leader, which may have finished it on the new members; start a \
         majority of the new members, then ask again"
    )]
    MayBeFinished(Generation),
    /// A majority of the old members lacks WAL that may be committed.
    #[error(
        "a majority of the old members has the log up to {held} only, and it may be committed up to {needed}; start more of \
         them or wait until they have caught up, then ask again"
    )]
    OldMembersLag {
        /// Position that a majority of the old members has acknowledged in this term; zero below the term's start.
        held: Lsn,
        /// Position that they must have acknowledged.
        needed: Lsn,
    },
    /// No higher generation can be represented.
    #[error("generations are exhausted")]
    Exhausted,
}
