//! Messages between proposers and acceptors: the same values for all protocol versions.
//!
//! Some fields exist in some protocol versions only. For a version without a field, the codec fills in a neutral value
//! (zero, empty, `None`), and the acceptor ignores the field.

mod acceptor;
mod proposer;

pub use self::acceptor::{
    AcceptorGreeting, AppendResponse, ChecksumResponse, ConfigureResponse, HotStandbyFeedback, LeaderHeard,
    Lease, PageserverFeedback, PreVoteResponse, TicketResponse, VoteResponse, WatchResponse,
};
pub use self::proposer::{
    APPEND_WAL_BYTES_MAX, AppendRequest, ChecksumRequest, ConfigureRequest, PreVoteRequest, ProposerElected,
    ProposerGreeting, Ticket, VoteRequest,
};

/// Message from a proposer to an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProposerMessage {
    /// First message of a connection.
    Greeting(ProposerGreeting),
    /// Asks for the position of the acceptor's log; changes nothing (`holdfast-2` only).
    PreVote(PreVoteRequest),
    /// Asks for the vote of a term.
    Vote(VoteRequest),
    /// Announces the leader of a term: truncate the log at the common point and follow.
    Elected(ProposerElected),
    /// Carries WAL, or nothing but the newest commit LSN.
    Append(AppendRequest),
    /// Asks for the checksum of a range of the log (`holdfast-2` only).
    Checksum(ChecksumRequest),
    /// Carries the leader's next configuration (`holdfast-2` only).
    Configure(ConfigureRequest),
    /// Asks for support of the leader's lease (`holdfast-2` only).
    Ticket(Ticket),
    /// Asks what the node knows of the log and its leader; changes nothing, and waits for no disk (`holdfast-2` only).
    Watch,
}

/// Message from an acceptor to a proposer. Each is a response; an acceptor never speaks first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AcceptorMessage {
    /// Response to a greeting.
    Greeting(AcceptorGreeting),
    /// Response to a pre-vote.
    PreVote(PreVoteResponse),
    /// Response to a vote request.
    Vote(VoteResponse),
    /// Response to appends.
    Append(AppendResponse),
    /// Response to a checksum request.
    Checksum(ChecksumResponse),
    /// Response to a configuration.
    Configure(ConfigureResponse),
    /// Response to a ticket.
    Ticket(TicketResponse),
    /// Response to a watch request.
    Watch(WatchResponse),
}
