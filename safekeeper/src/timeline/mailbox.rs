//! [`Mailbox`]: the way from the disk thread back to one connection. Posting never waits, and never grows without
//! bound: a peer that does not read its answers must not hold up the votes of others.
//!
//! Append responses replace each other, because the newest says all that the older ones said. Answers to questions
//! are kept, up to [`ANSWERS_MAX`]; a proposer asks one at a time, so more than that is a broken peer. The order in
//! which things were said is kept. `task` posts, `receive_wal` takes.

use std::collections::VecDeque;
use std::sync::Arc;

use consensus::AcceptorMessage;
use parking_lot::Mutex;
use pq_proto::ErrorResponse;
use tokio::sync::Notify;

/// Most answers that wait for a connection.
pub(super) const ANSWERS_MAX: usize = 16;

/// Clones are the same mailbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mailbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Content {
    messages: VecDeque<AcceptorMessage>,
    end: Option<ErrorResponse>,
}

/// What a connection finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mail {
    /// To be sent.
    Message(AcceptorMessage),
    /// The connection must be closed with these words. The last mail.
    End(ErrorResponse),
}

impl Mailbox {
    /// Adds a message. False when the connection leaves too many of its answers unread: it should be ended.
    #[must_use]
    pub(crate) fn post(&self, message: AcceptorMessage) -> bool {
        let accepted = self.with(|content| {
            let is_append = |message: &AcceptorMessage| matches!(message, AcceptorMessage::Append(_));
            if is_append(&message) {
                content.messages.retain(|waiting| !is_append(waiting));
            } else if content.messages.len() >= ANSWERS_MAX {
                return false;
            }
            content.messages.push_back(message);
            true
        });
        self.0.posted.notify_one();
        accepted
    }

    /// Ends the connection once it took what is there. The first reason counts.
    pub(crate) fn end(&self, reason: ErrorResponse) {
        self.with(|content| content.end.get_or_insert(reason).clone());
        self.0.posted.notify_one();
    }

    /// The next mail. Cancel-safe: what was not returned stays. For one taker.
    pub(crate) async fn take(&self) -> Mail {
        loop {
            if let Some(mail) = self.try_take() {
                return mail;
            }
            // A post between the look and this wait left a permit, so it is not missed.
            self.0.posted.notified().await;
        }
    }

    /// The next mail, if there is one.
    pub(crate) fn try_take(&self) -> Option<Mail> {
        self.with(|content| match content.messages.pop_front() {
            Some(message) => Some(Mail::Message(message)),
            None => content.end.clone().map(Mail::End),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Content) -> T) -> T {
        act(&mut self.0.content.lock())
    }
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

    fn answer(from: u64) -> AcceptorMessage {
        AcceptorMessage::Checksum(ChecksumResponse { from: Lsn(from), to: Lsn(from), crc32c: None })
    }

    #[test]
    fn only_the_newest_append_response_is_kept() {
        let mailbox = Mailbox::default();
        for message in [append(1), answer(1), append(2), append(3)] {
            assert!(mailbox.post(message));
        }
        assert_eq!(mailbox.try_take(), Some(Mail::Message(answer(1))));
        assert_eq!(mailbox.try_take(), Some(Mail::Message(append(3))));
        assert_eq!(mailbox.try_take(), None);
    }

    #[test]
    fn answers_that_nobody_reads_have_an_end() {
        let mailbox = Mailbox::default();
        for from in 0..ANSWERS_MAX as u64 {
            assert!(mailbox.post(answer(from)));
        }
        assert!(!mailbox.post(answer(99)));
        assert!(mailbox.post(append(1)));
    }

    #[test]
    fn the_end_comes_last_and_stays() {
        let mailbox = Mailbox::default();
        let reason = |text: &str| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, text);
        mailbox.end(reason("first"));
        mailbox.end(reason("second"));
        assert!(mailbox.post(append(1)));
        assert_eq!(mailbox.try_take(), Some(Mail::Message(append(1))));
        assert_eq!(mailbox.try_take(), Some(Mail::End(reason("first"))));
        assert_eq!(mailbox.try_take(), Some(Mail::End(reason("first"))));
    }

    #[tokio::test]
    async fn a_taker_wakes_for_what_is_posted() {
        let mailbox = Mailbox::default();
        let taker = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.take().await }
        });
        tokio::task::yield_now().await;
        assert!(mailbox.post(append(7)));
        assert_eq!(taker.await.unwrap(), Mail::Message(append(7)));
    }
}
