//! Names in a model: safekeepers, primaries, campaigns and connections, and the log that they write.

use consensus::{Configuration, ConnectionId, Member, Primary};
use wal_types::{
    Generation, NodeId, PrimaryId, ProposerId, ReplicaId, SystemId, TenantId, TenantTimelineId, TimelineId,
};

/// Safekeepers that are members from the beginning.
pub(crate) const MEMBERS: usize = 3;
/// Writers: a primary and its proposer each.
pub(crate) const WRITERS: usize = 2;

/// The modelled log.
pub(crate) const LOG: TenantTimelineId =
    TenantTimelineId { tenant: TenantId([0x55; 16]), timeline: TimelineId([0x66; 16]) };
/// The PostgreSQL cluster of the log.
pub(crate) const SYSTEM_ID: SystemId = SystemId(7);
/// The PostgreSQL version of the log.
pub(crate) const PG_VERSION: u32 = 150_000;

/// The first id of a safekeeper: a number that is no position, no length and no term.
pub(crate) const ID_FIRST: u64 = 0x6e6f_6465_5f69_6430;
/// Id of a listed safekeeper that is never reached and has no vote. It ends the last node's part of a hashed proposer:
/// what follows it belongs to no node.
pub(crate) const ID_LAST: u64 = ID_FIRST + 0xff;

/// The first name of a connection.
pub(crate) const CONNECTION_FIRST: u64 = 0x636f_6e6e_6563_7430;

/// Id of the node with this index.
pub(crate) const fn id(node: usize) -> NodeId {
    NodeId(ID_FIRST + node as u64)
}

/// Index of a node.
pub(crate) const fn index(id: NodeId) -> usize {
    (id.0 - ID_FIRST) as usize
}

/// The id that ends the list of safekeepers of a proposer.
pub(crate) const SENTINEL: NodeId = NodeId(ID_LAST);

/// The entry of a node in a configuration. All copies have the same name: a node is never created anew here, and the names
/// of nodes alone decide which states are mirror images.
pub(crate) const fn member(node: usize) -> Member {
    Member { id: id(node), host: String::new(), port: 0, replica: ReplicaId([0; 16]) }
}

/// The configuration that logs are created with.
pub(crate) fn initial_configuration() -> Configuration {
    Configuration {
        generation: Generation(1),
        members: (0..MEMBERS).map(member).collect(),
        ..Configuration::default()
    }
}

/// The name of the campaigns of a writer.
pub(crate) const fn campaign(writer: usize) -> ProposerId {
    ProposerId([writer as u8 + 1; 16])
}

/// The name of a writer's primary.
pub(crate) fn primary(writer: usize) -> Primary {
    Primary::named(PrimaryId([writer as u8 + 1; 16]))
}

/// The name of a connection.
pub(crate) fn connection(writer: usize, is_second: bool) -> ConnectionId {
    ConnectionId(CONNECTION_FIRST + (writer * 2 + usize::from(is_second)) as u64)
}

/// Number of names of connections.
pub(crate) const CONNECTIONS: u64 = 4;

/// The `index`-th name of a connection.
pub(crate) const fn nth_connection(index: u64) -> ConnectionId {
    ConnectionId(CONNECTION_FIRST + index)
}
