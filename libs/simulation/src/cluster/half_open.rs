//! [`HalfOpen`]: a connection whose writer's end is closed.

use std::collections::VecDeque;

use consensus::{ConnectionId, ProposerMessage};
use wal_types::NodeId;

/// A half-open connection: the writer's end is closed. What it had sent still arrives, and then the end of the
/// connection.
pub(super) struct HalfOpen {
    pub(super) node: NodeId,
    pub(super) id: ConnectionId,
    pub(super) messages: VecDeque<ProposerMessage>,
}
