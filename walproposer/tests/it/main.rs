//! The walproposer against real safekeepers and a scripted primary, all in this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod catch_up;
mod ends;
mod members;
mod primary;
mod primary_checks;
mod quorum;
mod recover;
mod safekeepers;
mod segment_end;
mod support;
mod wire;
