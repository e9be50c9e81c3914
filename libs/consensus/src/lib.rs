//! The consensus core: who may write the log, what is committed, and what a node that fell behind must cut.
//!
//! ```text
//!   ProposerMessage --> Acceptor::step --> [Effect]   a safekeeper's side: decides, never waits, never touches a disk
//!   AcceptorMessage --> Proposer::step --> [Action]   the writer's side: elects, streams, counts the quorum
//! ```
//!
//! No clock, no socket, no file, no task, and no knowledge of WAL records: time, random identifiers and record ends
//! come in as arguments. Both sides return a list of things to do, and the **order of the list is the safety
//! argument**: what a reply promises stands before the reply.
//!
//! [`codec`] turns messages into the bytes of the three protocol versions and back. [`term_history`] and [`quorum`] are
//! the pure rules that everything else rests on.

mod acceptor;
pub mod codec;
mod configuration;
mod lineage;
mod message;
mod proposer;
pub mod quorum;
mod state;
pub mod term_history;
mod wal_buffer;

pub use acceptor::{Acceptor, Effect, Refusal};
pub use configuration::{Configuration, InvalidConfiguration, MEMBERS_MAX, Member};
pub use lineage::{Dialect, Lineage, ProtocolVersion};
pub use message::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    ConfigureRequest, ConfigureResponse, HotStandbyFeedback, PageserverFeedback, PreVoteRequest,
    PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};
pub use proposer::{
    Action, CampaignPhase, ChangeRefused, ConfigurationChange, DonorRange, Election, LostTerm, PeerState,
    PeerStatus, Proposer, ProposerOptions,
};
pub use state::{AcceptorState, Loss};
pub use term_history::{TermHistory, TermStart, TliSwitch};
pub use wal_buffer::WalBuffer;

/// Most WAL bytes in one append: what the public protocol allows (16 pages of 8 KiB).
pub const APPEND_WAL_BYTES_MAX: usize = 128 * 1024;

/// One connection of a proposer to an acceptor, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);
