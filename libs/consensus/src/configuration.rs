//! [`Configuration`]: who votes.

use std::collections::BTreeSet;

use thiserror::Error;
use wal_types::{Generation, NodeId, PrimaryId};

/// One voting safekeeper and where proposers reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Host name or address of its PostgreSQL port.
    pub host: String,
    /// TCP port of its PostgreSQL port.
    pub port: u16,
}

/// The voting members, and the next ones while membership changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Ordinal; zero means "not managed", with any members that the operator wrote down.
    pub generation: Generation,
    /// Who votes.
    pub members: Vec<Member>,
    /// Non-empty while joint: a decision then needs a quorum of both lists.
    pub new_members: Vec<Member>,
    /// The only primary whose WAL the log may take; none: anybody's. Dialect `neon` has none.
    pub primary: Option<PrimaryId>,
}

/// Most members of one set: the public protocol's limit.
pub const MEMBERS_MAX: usize = 31;

impl Configuration {
    /// Checks what every holder of a configuration relies on.
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

    /// Ids of the voting sets: one, or two while joint. Empty when nobody is listed.
    pub fn sets(&self) -> Vec<Vec<NodeId>> {
        [&self.members, &self.new_members]
            .into_iter()
            .filter(|set| !set.is_empty())
            .map(|set| set.iter().map(|member| member.id).collect())
            .collect()
    }
}

/// A configuration that no node may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum InvalidConfiguration {
    /// A managed configuration without members.
    #[error("configuration of generation {0} has no members")]
    Empty(Generation),
    /// More than [`MEMBERS_MAX`] in a set.
    #[error("{0} members in one set; at most {MEMBERS_MAX} are possible")]
    TooMany(usize),
    /// One node listed twice in a set.
    #[error("safekeeper {0} is listed twice in one set")]
    Duplicate(NodeId),
}
