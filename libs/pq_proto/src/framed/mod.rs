//! Frames on an asynchronous stream: reads and writes them. The only module of this crate that does IO.
//!
//! A connection is always two halves in two fields, a [`FramedReader`] and a [`FramedWriter`], so that splitting it
//! between two tasks is a move. Both halves keep their buffer when a future is dropped: every method here may be an arm
//! of `select!`. Used by `postgres_backend` and by the programs.

mod reader;
mod writer;

pub use self::reader::FramedReader;
pub use self::writer::{FramedWriter, WRITE_BUFFER_BYTES_HIGH};

#[cfg(test)]
mod tests;
