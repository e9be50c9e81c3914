//! What the safekeepers said to the walproposer, as somebody between the two hears it: a relay that decodes
//! ([`Tap`]), what a safekeeper owes after it ([`Ledger`]), and the bytes that it must have ([`WireRecord`]).
//!
//! Whatever was acknowledged here must be on that safekeeper's disk, whatever happens to it. Used by the crash runs.

mod ledger;
mod record;
mod tap;

pub use self::ledger::{Ledger, PositionReply, ReportedState};
pub use self::record::WireRecord;
pub use self::tap::Tap;
