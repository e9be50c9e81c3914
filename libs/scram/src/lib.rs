//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL documentation, "SCRAM-SHA-256 Authentication"), both sides of it.
//!
//! ```text
//!   client                      proxy                                          compute
//!   proof of its password  ->   server: checks it against a stored Verifier,
//!                               recovers the ClientKey on the way
//!                               client: proves the same ClientKey again   ->   checks its own verifier
//! ```
//!
//! No password and no PBKDF2 is in that path: whoever holds the ClientKey can log in wherever the verifier is the
//! same. Values in, values out: no stream, no clock, no randomness. Called by `auth::sasl` and `compute::handshake`.

use std::num::NonZeroU32;

pub mod client;
mod keys;
mod messages;
mod password;
mod secret;
pub mod server;

pub use client::Credentials;
pub use keys::ScramKeys;
pub use messages::ScramError;
pub use secret::{SCRAM_ITERATIONS_DEFAULT, Verifier, VerifierError};

/// Name of the mechanism in SASL.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The same, bound to the TLS channel.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// A password is not hashed more often: seconds of work for one login. PostgreSQL's own number is 4096.
pub const ITERATIONS_MAX: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// Random bytes in a nonce: PostgreSQL's own number.
pub const NONCE_BYTES: usize = 18;
