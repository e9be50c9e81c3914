//! The safekeeper from outside: over its two ports, on a real disk, with a scripted proposer.

mod http;
mod process;
mod push;
mod read;
mod stalled;
mod support;
mod switch;
