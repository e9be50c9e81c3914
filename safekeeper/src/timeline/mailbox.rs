//! [`Mailbox`]: replies of a disk thread to one connection. Posting never blocks, and the content is bounded: a peer that
//! does not read its replies must not delay the votes of others.
//!
//! A new append response replaces the one that waits, because it contains all that the older one said. Other replies are
//! kept, up to [`REPLIES_MAX`]; a proposer has one request under way, so a peer with more is broken. The order of the
//! replies is kept. `disk_thread` posts, `receive_wal` receives.

use std::collections::VecDeque;
use std::sync::Arc;

use consensus::AcceptorMessage;
use parking_lot::Mutex;
use pq_proto::ErrorResponse;
use tokio::sync::Notify;

/// Most replies that wait for a connection.
pub(super) const REPLIES_MAX: usize = 16;

/// The mailbox of one connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mailbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Content {
    replies: VecDeque<AcceptorMessage>,
    closed: Option<ErrorResponse>,
}

/// One item of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mail {
    /// A reply to send to the proposer.
    Reply(AcceptorMessage),
    /// The connection must be closed with this closing message. The last item.
    Close(ErrorResponse),
}

impl Mailbox {
    /// Adds a reply. False when the connection has [`REPLIES_MAX`] unread replies: the caller should close it.
    #[must_use]
    pub(crate) fn post(&self, reply: AcceptorMessage) -> bool {
        let accepted = {
            let mut content = self.0.content.lock();
            if is_append(&reply) {
                content.replies.retain(|waiting| !is_append(waiting));
                content.replies.push_back(reply);
                true
            } else if content.replies.len() < REPLIES_MAX {
                content.replies.push_back(reply);
                true
            } else {
                false
            }
        };
        self.0.posted.notify_one();
        accepted
    }

    /// Closes the connection once it has received the replies that wait. The first reason counts.
    pub(crate) fn close(&self, reason: ErrorResponse) {
        self.0.content.lock().closed.get_or_insert(reason);
        self.0.posted.notify_one();
    }

    /// Waits for the next item. Cancel-safe: an item that was not returned stays. One receiver only.
    pub(crate) async fn next(&self) -> Mail {
        loop {
            if let Some(mail) = self.try_next() {
                return mail;
            }
            // A post between the check and this wait left a permit, so it is not missed.
            self.0.posted.notified().await;
        }
    }

    /// The next item, if there is one.
    pub(crate) fn try_next(&self) -> Option<Mail> {
        let mut content = self.0.content.lock();
        match content.replies.pop_front() {
            Some(reply) => Some(Mail::Reply(reply)),
            None => content.closed.clone().map(Mail::Close),
        }
    }
}

fn is_append(reply: &AcceptorMessage) -> bool {
    matches!(reply, AcceptorMessage::Append(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AppendResponse, ChecksumResponse, HotStandbyFeedback};
    use pq_proto::SqlState;
    use wal_types::{Generation, Lsn, Term};

    fn append(flush: u64) -> AcceptorMessage {
        AcceptorMessage::Append(AppendResponse {
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
    fn mailbox_keeps_only_newest_append_response() {
        let mailbox = Mailbox::default();
        for reply in [append(1), checksum(1), append(2), append(3)] {
            assert!(mailbox.post(reply));
        }
        assert_eq!(mailbox.try_next(), Some(Mail::Reply(checksum(1))));
        assert_eq!(mailbox.try_next(), Some(Mail::Reply(append(3))));
        assert_eq!(mailbox.try_next(), None);
    }

    #[test]
    fn mailbox_bounds_unread_replies() {
        let mailbox = Mailbox::default();
        for from in 0..REPLIES_MAX as u64 {
            assert!(mailbox.post(checksum(from)));
        }
        assert!(!mailbox.post(checksum(99)));
        assert!(mailbox.post(append(1)));
    }

    #[test]
    fn mailbox_close_comes_last_and_stays() {
        let mailbox = Mailbox::default();
        let reason = |text: &str| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, text);
        mailbox.close(reason("first"));
        mailbox.close(reason("second"));
        assert!(mailbox.post(append(1)));
        assert_eq!(mailbox.try_next(), Some(Mail::Reply(append(1))));
        assert_eq!(mailbox.try_next(), Some(Mail::Close(reason("first"))));
        assert_eq!(mailbox.try_next(), Some(Mail::Close(reason("first"))));
    }

    #[tokio::test]
    async fn mailbox_post_wakes_receiver() {
        let mailbox = Mailbox::default();
        let receiver = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.next().await }
        });
        tokio::task::yield_now().await;
        assert!(mailbox.post(append(7)));
        assert_eq!(receiver.await.unwrap(), Mail::Reply(append(7)));
    }
}
