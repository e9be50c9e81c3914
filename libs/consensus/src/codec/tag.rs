//! Tags of the messages, and names of their kinds for errors.

use crate::message::{AcceptorMessage, ProposerMessage};

pub(super) const GREETING: u8 = b'g';
pub(super) const PRE_VOTE: u8 = b'p';
pub(super) const VOTE: u8 = b'v';
pub(super) const ELECTED: u8 = b'e';
pub(super) const APPEND: u8 = b'a';
pub(super) const CHECKSUM: u8 = b'c';
pub(super) const CONFIGURE: u8 = b'm';
pub(super) const TICKET: u8 = b't';
pub(super) const WATCH: u8 = b'w';

/// Name of the kind of a proposer's message.
pub(super) const fn proposer_kind(message: &ProposerMessage) -> &'static str {
    match message {
        ProposerMessage::Greeting(_) => "greeting",
        ProposerMessage::PreVote(_) => "pre-vote request",
        ProposerMessage::Vote(_) => "vote request",
        ProposerMessage::Elected(_) => "elected",
        ProposerMessage::Append(_) => "append request",
        ProposerMessage::Checksum(_) => "checksum request",
        ProposerMessage::Configure(_) => "configure request",
        ProposerMessage::Ticket(_) => "ticket",
        ProposerMessage::Watch => "watch request",
    }
}

/// Name of the kind of an acceptor's message.
pub(super) const fn acceptor_kind(message: &AcceptorMessage) -> &'static str {
    match message {
        AcceptorMessage::Greeting(_) => "greeting",
        AcceptorMessage::PreVote(_) => "pre-vote response",
        AcceptorMessage::Vote(_) => "vote response",
        AcceptorMessage::Append(_) => "append response",
        AcceptorMessage::Checksum(_) => "checksum response",
        AcceptorMessage::Configure(_) => "configure response",
        AcceptorMessage::Ticket(_) => "ticket response",
        AcceptorMessage::Watch(_) => "watch response",
    }
}
