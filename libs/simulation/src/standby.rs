//! [`Standby`]: a reader that lives long: it follows one node, keeps its file open over cuts and restarts of its
//! connection, moves to another node, and remembers where it stands.

use wal_store::{ModelDisk, ReadError, ReadMode, ReadOutcome, WalReader};
use wal_types::{Lsn, NodeId};

use crate::node::Node;
use crate::primary::START;

/// One standby of PostgreSQL, or another program that receives what is committed.
pub(crate) struct Standby {
    /// Everything below was received.
    pub(crate) position: Lsn,
    pub(crate) node: NodeId,
    /// With the life of the node that it belongs to.
    reader: Option<(u64, WalReader<ModelDisk>)>,
}

/// What a standby was sent.
pub(crate) enum Received {
    Bytes(Vec<u8>),
    Nothing,
    /// The node has removed what the standby needs.
    Removed,
}

impl Standby {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { position: START, node, reader: None }
    }

    /// Connects to another node, or anew to the same.
    pub(crate) fn connect(&mut self, node: NodeId) {
        self.node = node;
        self.reader = None;
    }

    /// Takes what the node has for it, at most `bytes_max`.
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
                // The sender ends with an error; the standby comes back.
                self.reader = None;
                Received::Nothing
            }
        }
    }
}
