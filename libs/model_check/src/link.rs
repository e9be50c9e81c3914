//! [`Link`]: the connection of a writer to a node, with the messages on their way.

use std::collections::VecDeque;

use consensus::{AcceptorMessage, ProposerMessage};

use crate::record::RECORD_BYTES;
use crate::shared::Fingerprinted;
use crate::symmetry::Fingerprint;

/// A connection: two queues, and messages that an earlier connection may still bring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) is_open: bool,
    /// Alternates with each connection that begins while messages of an earlier one are on their way.
    pub(crate) is_second: bool,
    pub(crate) to_node: VecDeque<ProposerMessage>,
    pub(crate) to_writer: VecDeque<AcceptorMessage>,
    /// Messages of an ended campaign that have not arrived.
    pub(crate) late: VecDeque<ProposerMessage>,
}

impl Fingerprinted for Link {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}

/// Splits an append into appends of one record each, so that a catch-up can end in the middle. Other messages stay
/// whole.
pub(crate) fn split_append(message: ProposerMessage) -> Vec<ProposerMessage> {
    let ProposerMessage::Append(append) = message else { return vec![message] };
    if append.wal.len() <= RECORD_BYTES {
        return vec![ProposerMessage::Append(append)];
    }
    let count = append.wal.len() / RECORD_BYTES;
    let piece = |index: usize| {
        let mut piece = append.clone();
        piece.begin_lsn = append.begin_lsn.advance((index * RECORD_BYTES) as u64);
        piece.wal = append.wal.slice(index * RECORD_BYTES..(index + 1) * RECORD_BYTES);
        ProposerMessage::Append(piece)
    };
    (0..count).map(piece).collect()
}
