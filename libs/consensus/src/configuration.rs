//! [`Configuration`]: the members that vote, and the primary that may write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use thiserror::Error;
use wal_types::{CopyId, Generation, InstanceId, NodeId, PrimaryId, ReplicaId, Term};

/// One voting safekeeper and the address at which proposers reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Host name or address at which it speaks the PostgreSQL protocol.
    pub host: String,
    /// TCP port at that host.
    pub port: u16,
    /// Its copy of the log. Only this copy votes: another one under the same number has not its promises. Zeros in
    /// dialect `neon`, whose protocol does not carry it.
    pub replica: ReplicaId,
}

impl Member {
    /// The copy that votes.
    pub const fn copy(&self) -> CopyId {
        CopyId { node: self.id, replica: self.replica }
    }
}

/// The primary that may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Primary {
    /// Its name.
    pub name: PrimaryId,
    /// The installation that has the name; zeros as long as no agent runs the server. A copy of its files has another one.
    pub instance: InstanceId,
}

impl Primary {
    /// A primary that no agent runs.
    pub fn named(name: PrimaryId) -> Self {
        Self { name, instance: InstanceId::default() }
    }
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.instance == InstanceId::default() {
            self.name.fmt(f)
        } else {
            write!(f, "{} (instance {})", self.name, self.instance)
        }
    }
}

/// Agents hold still: no agent nominates, starts or stops a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Paused {
    /// The operator.
    pub by: String,
    /// The operator's reason.
    pub why: String,
}

/// A field of a later release. Kept as it came, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownField {
    /// Number of the field.
    pub tag: u16,
    /// Number of the protocol version that a proposer must speak to lead with this field: 3 for `holdfast-3`.
    pub since: u16,
    /// Its value.
    pub value: Bytes,
}

/// The voting members, and the next ones while membership changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Number of the configuration. Zero: the operator listed the members, if any, when the log was created, and no
    /// leader has changed them.
    pub generation: Generation,
    /// Members that vote. Empty in a copy that was created, but not told its members yet.
    pub members: Vec<Member>,
    /// Non-empty while joint: a decision then needs a quorum of both lists.
    pub new_members: Vec<Member>,
    /// The designated primary: the only one whose WAL the log takes. `None` for any primary, and in dialect `neon`.
    pub primary: Option<Primary>,
    /// Leases of this term and of older ones are over. Zero: of none.
    pub void_to: Term,
    /// Agents may nominate themselves.
    pub automatic: bool,
    /// Set while an operator wants the agents to hold still.
    pub paused: Option<Paused>,
    /// Fields of later releases, by rising tag. A proposer that meets one does not lead.
    pub unknown: Vec<UnknownField>,
}

/// Most members of one set: the public protocol's limit.
pub const MEMBERS_MAX: usize = 31;
/// Longest host name of a member, in bytes. A DNS name has at most 253 characters in text form (RFC 1035, 2.3.4).
pub const HOST_BYTES_MAX: usize = 255;
/// Longest [`Paused::by`], in bytes.
pub const PAUSED_BY_BYTES_MAX: usize = 128;
/// Longest [`Paused::why`], in bytes.
pub const PAUSED_WHY_BYTES_MAX: usize = 512;
/// Most fields of later releases.
pub const UNKNOWN_FIELDS_MAX: usize = 32;
/// Longest value of a field of a later release, in bytes.
pub const UNKNOWN_FIELD_BYTES_MAX: usize = 1024;

impl Configuration {
    /// Checks the rules that every node relies on: a managed configuration has members, a set has at most
    /// [`MEMBERS_MAX`], and lists no node twice; no copy has two numbers; texts and lists are within their limits.
    pub fn validate(&self) -> Result<(), InvalidConfiguration> {
        if self.generation.0 != 0 && self.members.is_empty() {
            return Err(InvalidConfiguration::Empty(self.generation));
        }
        let mut numbers: BTreeMap<ReplicaId, NodeId> = BTreeMap::new();
        for set in [&self.members, &self.new_members] {
            if set.len() > MEMBERS_MAX {
                return Err(InvalidConfiguration::TooMany(set.len()));
            }
            let mut seen = BTreeSet::new();
            for member in set {
                if !seen.insert(member.id) {
                    return Err(InvalidConfiguration::Duplicate(member.id));
                }
                if member.host.len() > HOST_BYTES_MAX || member.host.contains('\0') {
                    return Err(InvalidConfiguration::Host(member.id));
                }
                let is_known = member.replica != ReplicaId::default();
                if is_known && *numbers.entry(member.replica).or_insert(member.id) != member.id {
                    return Err(InvalidConfiguration::TwoNumbers(member.replica));
                }
            }
        }

        let paused = self.paused.as_ref();
        let too_long = |paused: &&Paused| {
            paused.by.len() > PAUSED_BY_BYTES_MAX || paused.why.len() > PAUSED_WHY_BYTES_MAX
        };
        if paused.filter(too_long).is_some() {
            return Err(InvalidConfiguration::Paused);
        }
        let rises = self.unknown.is_sorted_by(|one, next| one.tag < next.tag);
        let fits = self.unknown.iter().all(|field| field.value.len() <= UNKNOWN_FIELD_BYTES_MAX);
        if !rises || !fits || self.unknown.len() > UNKNOWN_FIELDS_MAX {
            return Err(InvalidConfiguration::Fields);
        }
        Ok(())
    }

    /// The voting sets: one, or two while joint. Empty when no member is listed.
    pub fn voters(&self) -> Vec<Vec<CopyId>> {
        self.listed_sets().map(|set| set.iter().map(Member::copy).collect()).collect()
    }

    /// Numbers of the members of the voting sets, for messages to people.
    pub fn sets(&self) -> Vec<Vec<NodeId>> {
        self.listed_sets().map(|set| set.iter().map(|member| member.id).collect()).collect()
    }

    /// True when no one has listed members yet.
    pub fn is_unset(&self) -> bool {
        self.generation == Generation(0) && self.members.is_empty() && self.new_members.is_empty()
    }

    /// True when the node is listed, and each time with another copy than `replica`.
    pub fn lists_other_copy(&self, node: NodeId, replica: ReplicaId) -> bool {
        let listed = || self.members.iter().chain(&self.new_members).filter(|member| member.id == node);
        listed().next().is_some() && listed().all(|member| member.replica != replica)
    }

    /// Number of the protocol version that a proposer needs to lead with this configuration; `None` when this release can.
    pub fn needs_version(&self) -> Option<u16> {
        self.unknown.iter().map(|field| field.since).max()
    }

    fn listed_sets(&self) -> impl Iterator<Item = &Vec<Member>> {
        [&self.members, &self.new_members].into_iter().filter(|set| !set.is_empty())
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
    /// The host of a member is too long, or contains a zero byte.
    #[error("host of safekeeper {0} is longer than {HOST_BYTES_MAX} bytes or contains a zero byte")]
    Host(NodeId),
    /// One copy has two numbers: it would count twice.
    #[error("copy {0} is listed under two numbers")]
    TwoNumbers(ReplicaId),
    /// A text of [`Paused`] is too long.
    #[error("texts of the pause exceed {PAUSED_BY_BYTES_MAX} and {PAUSED_WHY_BYTES_MAX} bytes")]
    Paused,
    /// Fields of later releases are out of order, too many, or too long.
    #[error("fields of a later release are out of order, too many, or too long")]
    Fields,
}
