//! The walproposer against real safekeepers and a scripted primary, all in the test's process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod catch_up;
mod ends;
mod full_disks;
mod members;
mod primary_checks;
mod quorum;
mod recover;
mod retention;
mod rivals;
mod segment_end;
mod settings_watch;
mod support;
