//! walproposer
