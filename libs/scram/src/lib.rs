//! SCRAM-SHA-256, the server's side and the client's (RFC 5802, RFC 7677; PostgreSQL documentation, "SCRAM-SHA-256
//! Authentication").
//!
//! ```text
//!   client                        server                                 database
//!   client-first-message    --->
//!                           <---  server-first-message: nonce, salt,
//!                                 iterations of a stored Verifier
//!   client-final-message:   --->  checks the proof against the Verifier,
//!   proof of its password         recovers the ClientKey on the way
//!                                 the same exchange, as client     --->  checks its own Verifier
//!                           <---  server-final-message: signature
//! ```
//!
//! A server that relays clients needs neither their passwords nor PBKDF2: the ClientKey that it recovers logs in to
//! every database that stores the same verifier.
//!
//! Pure: no stream, no clock, no randomness; the caller brings the nonces. The messages travel in SASL messages of the
//! PostgreSQL protocol, which are the caller's too (`proxy::auth` as server, `proxy::compute` as client).
//!
//! ```
//! use scram::server::{Challenge, ChannelBinding};
//! use scram::{ITERATIONS_DEFAULT, Verifier, client};
//!
//! let verifier = Verifier::from_password("pencil", b"sixteen bytes of", ITERATIONS_DEFAULT);
//!
//! let exchange = client::Exchange::new(b"nonce of a client");
//! let challenge =
//!     Challenge::new(verifier, exchange.client_first(), b"nonce of a server", ChannelBinding::NotOffered)?;
//! let keys = client::derive_keys(challenge.server_first(), b"pencil")?;
//! let proof = exchange.prove(challenge.server_first(), keys)?;
//! let verified = challenge.verify(proof.client_final())?;
//!
//! let server_final = verified.server_final.unwrap();
//! proof.verify_server(&server_final)?;
//! # Ok::<(), scram::ScramError>(())
//! ```

pub mod client;
mod keys;
mod messages;
mod saslprep;
pub mod server;
mod verifier;

pub use client::Credentials;
pub use keys::{ITERATIONS_DEFAULT, ITERATIONS_MAX, ScramKeys};
pub use messages::ScramError;
pub use verifier::{Verifier, VerifierError};

/// Name of the SASL mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Name of the SASL mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Random bytes in a nonce, as in PostgreSQL.
pub const NONCE_BYTES: usize = 18;
