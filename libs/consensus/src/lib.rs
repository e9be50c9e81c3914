//! Consensus core: decides which proposer may write a log, what is committed, and where a log must be truncated.
//!
//! ```text
//!   ProposerMessage --> Acceptor::step    --> [Effect]   a safekeeper: decides, never waits, never touches a disk
//!   AcceptorMessage --> Proposer::receive --> [Action]   the writer: campaigns, streams WAL, counts the quorum
//! ```
//!
//! This crate has no clock, no socket, no file and no task, and knows nothing of WAL records: time, random identifiers
//! and record ends come in as arguments. Both sides return a list of things to do. The *driver*, the code around this
//! crate that has the disks and the connections, carries the list out in order. The **order of the list is the safety
//! argument**: whatever a reply promises is made durable by an effect that stands before the reply. The driver reports an
//! event with a method in the past tense ([`Acceptor::flushed`], [`Proposer::connected`]).
//!
//! [`codec`] turns messages into the bytes of the three protocol versions and back. [`term_history`] and [`quorum`] are
//! the pure rules that everything else rests on. `docs/consensus.md` describes the protocol.

mod acceptor;
pub mod codec;
mod configuration;
mod connection_id;
mod lineage;
mod message;
mod proposer;
pub mod quorum;
mod state;
pub mod term_history;
mod wal_buffer;

pub use acceptor::{Acceptor, BootstrapRefused, Effect, Refusal};
pub use configuration::{
    Configuration, InvalidConfiguration, MEMBERS_MAX, Member, PAUSED_BY_BYTES_MAX, PAUSED_WHY_BYTES_MAX,
    Paused, Primary, UNKNOWN_FIELD_BYTES_MAX, UNKNOWN_FIELDS_MAX, UnknownField,
};
pub use connection_id::ConnectionId;
pub use lineage::{Dialect, Lineage, ProtocolVersion, START_HISTORY_BYTES_MAX};
pub use message::{
    APPEND_WAL_BYTES_MAX, AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest,
    ChecksumResponse, ConfigureRequest, ConfigureResponse, HotStandbyFeedback, LeaderHeard, Lease,
    PageserverFeedback, PreVoteRequest, PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage,
    Ticket, TicketResponse, VoteRequest, VoteResponse, WatchResponse,
};
pub use proposer::{
    Action, CampaignPhase, ChangeRefused, ConfigurationChange, DonorRange, Election, ForeignCopy, LostTerm,
    PeerState, PeerStatus, Proposer, ProposerOptions, compare_from,
};
pub use state::{AcceptorState, Loss};
pub use term_history::{TermHistory, TermStart, TliSwitch};
pub use wal_buffer::WalBuffer;
