//! The rules of a candidate: whether its primary continues the safekeepers' log, and when it campaigns again. Without
//! clock, sockets and tasks.
//!
//! ```text
//!   survey ----> continuation --> comparison --> votes ----> continuation --> comparison --> leads
//!   (pre-votes)  positions        bytes below                positions        bytes below      |
//!        ^                        the commit LSN                              the log's end    |
//!        +------------------------- retry_policy: how long to wait <---------------------------+
//! ```
//!
//! The [`consensus::Proposer`] decides about votes and commits. A candidate decides about its own primary: a server that
//! was rolled back, cloned or left behind must not lead, and must not disturb the one that does. So both checks are made
//! twice: with the positions of a survey, before a term is spent, and with the end of the log that the votes settled,
//! before any safekeeper truncates anything.
//!
//! The walproposer drives these rules with a real primary and real safekeepers, and the simulation with its own.

mod comparison;
mod continuation;
mod end_kind;
mod retry_policy;

pub use comparison::{ComparedRange, Comparison, Gap, Verdict};
pub use continuation::{
    NotAContinuation, PrimaryPosition, TimelineFork, check, needs_timeline_history, parse_last_fork,
    timeline_before,
};
pub use end_kind::EndKind;
pub use retry_policy::{RetryDelays, RetryPolicy};
