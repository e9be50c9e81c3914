//! [`Standby`]: long-lived reader of committed WAL. It follows one node, keeps its file open over truncations and
//! restarts of its connection, moves to another node, and remembers its position.

use wal_store::{ModelDisk, ReadError, ReadMode, ReadOutcome, WalReader};
use wal_types::{Lsn, NodeId};

use crate::node::Node;
use crate::primary::START;

/// A PostgreSQL standby, or another program that receives committed WAL.
pub(crate) struct Standby {
    /// End of the received WAL.
    pub(crate) position: Lsn,
    pub(crate) node: NodeId,
    /// The open reader, with the incarnation of the node that it belongs to.
    reader: Option<(u64, WalReader<ModelDisk>)>,
}

/// Result of one read.
pub(crate) enum Received {
    /// New WAL.
    Bytes(Vec<u8>),
    /// No new WAL, or the connection has ended.
    Nothing,
    /// The node has removed what the standby needs.
    Removed,
}

impl Standby {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { position: START, node, reader: None }
    }

    /// Connects to another node, or reconnects to the same.
    pub(crate) fn connect(&mut self, node: NodeId) {
        self.node = node;
        self.reader = None;
    }

    /// Reads at most `bytes_max` bytes of committed WAL from the node.
    pub(crate) fn receive(&mut self, node: &Node, bytes_max: usize) -> Received {
        let incarnation = node.incarnation();
        if self.reader.as_ref().is_none_or(|(of, _)| *of != incarnation) {
            self.reader = node.reader(ReadMode::Committed).map(|reader| (incarnation, reader));
        }

        let Some((_, reader)) = &mut self.reader else { return Received::Nothing };
        let mut bytes = vec![0; bytes_max];
        match reader.read(self.position, &mut bytes) {
            Ok(ReadOutcome::Bytes(count)) => {
                bytes.truncate(count);
                self.position = self.position.advance(count as u64);
                Received::Bytes(bytes)
            }
            Err(ReadError::TooOld { .. }) => Received::Removed,
            Ok(ReadOutcome::Nothing | ReadOutcome::Changed) => Received::Nothing,
            Err(_) => {
                // The sender closes with an error; the standby reconnects.
                self.reader = None;
                Received::Nothing
            }
        }
    }
}
