//! One batch of messages: what goes in, what comes out, and the loop over it.
//!
//! [`crate::replica`] calls it and owns the log.

use std::collections::BTreeSet;

use consensus::{AcceptorMessage, ConnectionId, Effect, ProposerMessage, Refusal};
use thiserror::Error;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::open_log::{EffectSink, MessageOutcome, OpenLog};
use crate::snapshot::{Snapshot, SnapshotCell};

/// What a connection delivers to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each append")]
pub enum Input {
    /// A message of the proposer.
    Message(ProposerMessage),
    /// The connection has closed.
    Disconnected,
}

/// Results of a batch, or of a tick.
#[derive(Debug, Default)]
#[must_use]
pub struct Output {
    /// Replies to post, in this order. What they promise is durable.
    pub replies: Vec<(ConnectionId, AcceptorMessage)>,
    /// Number of times that WAL was made durable.
    pub wal_syncs: u32,
    /// Connections to close. The replica has forgotten them already.
    pub refused: Vec<(ConnectionId, Rejection)>,
    /// Messages that were not decided because the disk has no room. Offer them again after
    /// [`RESERVE_RETRY`](crate::RESERVE_RETRY), before anything else of their connection. For each append among them
    /// `replies` has a response with unchanged positions, so that its proposer does not close the connection.
    pub undecided: Vec<(ConnectionId, Input)>,
}

impl Output {
    /// Adds the results of a later step.
    pub(crate) fn append(&mut self, later: Self) {
        self.replies.extend(later.replies);
        self.wal_syncs += later.wal_syncs;
        self.refused.extend(later.refused);
        self.undecided.extend(later.undecided);
    }

    /// Drops the append responses of connections whose appends are offered again.
    pub(crate) fn drop_append_responses(&mut self, again: &[(ConnectionId, Input)]) {
        let is_append = |input: &Input| matches!(input, Input::Message(ProposerMessage::Append(_)));
        let answered_again =
            |id: ConnectionId| again.iter().any(|(from, input)| *from == id && is_append(input));
        self.replies
            .retain(|(to, reply)| !matches!(reply, AcceptorMessage::Append(_)) || !answered_again(*to));
    }
}

/// Why a connection has to be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The proposer broke the protocol, or its WAL does not fit this log.
    #[error(transparent)]
    Protocol(#[from] Refusal),
    /// The disk failed. The proposer should reconnect: the replica recovers.
    #[error("disk of this safekeeper failed: {0}")]
    Disk(String),
    /// The promises of this node are lost. Reconnecting does not help.
    #[error("this safekeeper's copy of the log is damaged: {0}")]
    Corrupt(String),
}

/// Collects the effects of a batch that do not go to the disk.
pub(crate) struct Outbox<'a> {
    /// Replies and refusals so far.
    pub(crate) output: &'a mut Output,
    /// Where readers find the newest snapshot.
    pub(crate) snapshots: &'a SnapshotCell,
}

impl EffectSink for Outbox<'_> {
    fn reply(&mut self, to: ConnectionId, message: AcceptorMessage) {
        self.output.replies.push((to, message));
    }

    fn publish(&mut self, snapshot: Snapshot) {
        self.snapshots.publish(snapshot);
    }

    fn count_sync(&mut self) {
        self.output.wal_syncs += 1;
    }
}

/// Decides the messages of a batch, in order, and carries out what follows. The sync is left to the caller.
///
/// A message for which the disk has no room waits, and so do all later ones of its connection: their order must stay.
/// After a refusal the later messages of that connection are dropped.
pub(crate) fn run_batch<D: Disk>(
    log: &mut OpenLog<D>,
    batch: Vec<(ConnectionId, Input)>,
    outbox: &mut Outbox<'_>,
) -> Result<(), StoreError> {
    let mut waiting = BTreeSet::new();
    let mut refused = BTreeSet::new();

    for (from, input) in batch {
        let message = match input {
            Input::Disconnected => {
                log.disconnected(from);
                outbox.output.undecided.retain(|(connection, _)| *connection != from);
                continue;
            }
            Input::Message(message) => message,
        };

        if refused.contains(&from) {
            continue;
        }
        if waiting.contains(&from) {
            outbox.output.undecided.push((from, Input::Message(message)));
            continue;
        }

        match log.handle_message(from, message.clone(), outbox)? {
            MessageOutcome::Done => {}
            MessageOutcome::Refused(refusal) => {
                log.disconnected(from);
                refused.insert(from);
                outbox.output.refused.push((from, refusal.into()));
            }
            MessageOutcome::NoRoom => {
                waiting.insert(from);
                if matches!(message, ProposerMessage::Append(_))
                    && let Effect::Reply { to, message } = log.unchanged_response(from)
                {
                    outbox.reply(to, message);
                }
                outbox.output.undecided.push((from, Input::Message(message)));
            }
        }
    }
    Ok(())
}
