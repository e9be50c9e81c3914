//! Version `holdfast-2`: the second version of our own protocol.
//!
//! Packed, big-endian, 1-byte tag. "v3" stands for the layout of the same message in version 3.
//!
//! ```text
//! proposer
//!   g  tag u8, tenant id 16, timeline id 16, pg_version u32, system id u64, segment bytes u32,
//!      tli u32, proposer id 16                                                                     69
//!   p  tag u8, generation u32                                                                       5
//!   v  v3, proposer id 16, replica 16                                                              45
//!   e  tag u8, generation u32, term u64, start streaming at u64, replica 16, rebase u64, history,
//!      switches, configuration
//!   a  v3                                                                                    45 + wal
//!   c  tag u8, generation u32, term u64, from u64, to u64                                          29
//!   m  tag u8, term u64, configuration                                              9 + configuration
//!   t  tag u8, term u64, number u64                                                                17
//!   w  tag u8                                                                                       1
//! acceptor
//!   g  tag u8, node id u64, replica 16, birth, term u64, configuration term u64, configuration
//!                                                                                  74 + configuration
//!   p  tag u8, generation u32, term u64, flush u64, commit u64, oldest u64, heard, lost u8, history,
//!      switches, configuration term u64, configuration
//!   v  v3 (horizon as truncate), commit u64, oldest u64, heard, lost u8, history, switches,
//!      configuration term u64, configuration
//!   a  v3 without a page server's feedback, oldest u64                                             61
//!   c  tag u8, from u64, to u64, present u8, crc u32 (zero when not present)                       22
//!   m  tag u8, term u64, generation u32                                                            13
//!   t  tag u8, term u64, number u64                                                                17
//!   w  tag u8, node id u64, replica 16, term u64, flush u64, commit u64, oldest u64, heard, lost u8,
//!      configuration term u64, configuration
//!
//! history   n u32, n * {term u64, start u64, tli u32}
//! switches  n u32, n * {parent u32, tli u32, at u64}
//! birth     present u8, hash 32 (zeros when not present)
//! heard     leader heard u32 (milliseconds ago; all ones: never), lease present u8, term u64,
//!           instance 16, left u32 (milliseconds)                                                   33
//! rebase    zero: none
//! ```
//!
//! `configuration` stands in a file of its own: its fields are tagged, so that a later release may add some.

mod acceptor;
mod configuration;
mod fields;
mod proposer;

pub(super) use self::acceptor::{get_acceptor, put_acceptor};
pub use self::configuration::{birth_of, decode_configuration, encode_configuration};
pub(super) use self::proposer::{get_proposer, put_proposer};
