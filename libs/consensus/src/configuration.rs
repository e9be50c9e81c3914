//! [`Configuration`]: the members that vote, and the primary that may write.

use std::collections::BTreeSet;

use thiserror::Error;
use wal_types::{Generation, NodeId, PrimaryId};

/// One voting safekeeper and the address at which proposers reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Host name or address at which it speaks the PostgreSQL protocol.
    pub host: String,
    /// TCP port at that host.
    pub port: u16,
}

/// The voting members, and the next ones while membership changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Number of the configuration. Zero: the operator listed the members, if any, when the log was created, and no
    /// leader has changed them.
    pub generation: Generation,
    /// Members that vote.
    pub members: Vec<Member>,
    /// Non-empty while joint: a decision then needs a quorum of both lists.
    pub new_members: Vec<Member>,
    /// The designated primary: the only one whose WAL the log takes. `None` for any primary, and in dialect `neon`.
    pub primary: Option<PrimaryId>,
}

/// Most members of one set: the public protocol's limit.
pub const MEMBERS_MAX: usize = 31;

impl Configuration {
    /// Checks the rules that every node relies on: a managed configuration has members, a set has at most
    /// [`MEMBERS_MAX`], and lists no node twice.
    pub fn validate(&self) -> Result<(), InvalidConfiguration> {
        if self.generation.0 != 0 && self.members.is_empty() {
            return Err(InvalidConfiguration::Empty(self.generation));
        }
        for set in [&self.members, &self.new_members] {
            if set.len() > MEMBERS_MAX {
                return Err(InvalidConfiguration::TooMany(set.len()));
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = set.iter().find(|member| !seen.insert(member.id)) {
                return Err(InvalidConfiguration::Duplicate(twice.id));
            }
        }
        Ok(())
    }

    /// Ids of the voting sets: one set, or two while joint. Empty when no member is listed.
    pub fn sets(&self) -> Vec<Vec<NodeId>> {
        [&self.members, &self.new_members]
            .into_iter()
            .filter(|set| !set.is_empty())
            .map(|set| set.iter().map(|member| member.id).collect())
            .collect()
    }
}

/// The configuration breaks a rule, so no node may hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum InvalidConfiguration {
    /// A managed configuration has no members.
    #[error("configuration of generation {0} has no members")]
    Empty(Generation),
    /// A set has more than [`MEMBERS_MAX`] members.
    #[error("{0} members in one set; at most {MEMBERS_MAX} are possible")]
    TooMany(usize),
    /// A set lists one node twice.
    #[error("safekeeper {0} is listed twice in one set")]
    Duplicate(NodeId),
}
