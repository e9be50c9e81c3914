//! [`ReplyQueue`]: replies that a connection does not take yet. The content is bounded: a peer that does not read its
//! replies must not cost memory or delay others.
//!
//! A new append response replaces the one that waits, because it contains all that the older one said. Other replies are
//! kept, up to [`REPLIES_MAX`]; a proposer has one request under way, so a peer with more is broken. The order of the
//! replies is kept.

use std::collections::VecDeque;

use consensus::AcceptorMessage;

/// Most replies that wait for a connection.
const REPLIES_MAX: usize = 16;

/// Replies for one connection.
#[derive(Debug, Default)]
pub(super) struct ReplyQueue(VecDeque<AcceptorMessage>);

impl ReplyQueue {
    /// Adds a reply. False when the connection has [`REPLIES_MAX`] unread replies: the caller should close it.
    #[must_use]
    pub(super) fn push(&mut self, reply: AcceptorMessage) -> bool {
        if is_append(&reply) {
            self.0.retain(|waiting| !is_append(waiting));
        } else if self.0.len() >= REPLIES_MAX {
            return false;
        }
        self.0.push_back(reply);
        true
    }

    /// True when no reply waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next reply to send.
    pub(super) fn pop(&mut self) -> Option<AcceptorMessage> {
        self.0.pop_front()
    }
}

fn is_append(reply: &AcceptorMessage) -> bool {
    matches!(reply, AcceptorMessage::Append(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AppendResponse, ChecksumResponse, HotStandbyFeedback};
    use wal_types::{Generation, Lsn, Term};

    fn append(flush: u64) -> AcceptorMessage {
        AcceptorMessage::Append(AppendResponse {
            oldest_lsn: Lsn::INVALID,
            generation: Generation(0),
            term: Term(1),
            flush_lsn: Lsn(flush),
            commit_lsn: Lsn(0),
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        })
    }

    fn checksum(from: u64) -> AcceptorMessage {
        AcceptorMessage::Checksum(ChecksumResponse { from: Lsn(from), to: Lsn(from), crc32c: None })
    }

    #[test]
    fn reply_queue_keeps_only_newest_append_response() {
        let mut replies = ReplyQueue::default();
        for reply in [append(1), checksum(1), append(2), append(3)] {
            assert!(replies.push(reply));
        }
        assert_eq!(replies.pop(), Some(checksum(1)));
        assert_eq!(replies.pop(), Some(append(3)));
        assert_eq!(replies.pop(), None);
    }

    #[test]
    fn reply_queue_bounds_unread_replies() {
        let mut replies = ReplyQueue::default();
        for from in 0..REPLIES_MAX as u64 {
            assert!(replies.push(checksum(from)));
        }
        assert!(!replies.push(checksum(99)));
        assert!(replies.push(append(1)));
    }
}
