//! Wire recorder of the crash runs: what each safekeeper acknowledged to the walproposer.
//!
//! [`Tap`] is a relay between the two that decodes messages, [`Ledger`] keeps the positions that a safekeeper
//! acknowledged, and [`WireRecord`] keeps the WAL bytes that it was sent.
//!
//! Acknowledged WAL must be on the disk of that safekeeper after any crash.

mod ledger;
mod record;
mod tap;

pub use self::ledger::{Ledger, PositionReply, ReportedState};
pub use self::record::WireRecord;
pub use self::tap::Tap;
