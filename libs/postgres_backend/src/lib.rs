//! PostgreSQL connections: the server side, and a small client for servers.
//!
//! ```text
//!   stream -> handshake::accept -> Session -> authentication -> Session::connection -> serve(Handler)
//!               TLS, cancel,                  trust, password                            queries,
//!               startup packet                                                           copy::CopyBoth
//! ```
//!
//! Each stage is a type of its own, made from the stage before. After the handshake a connection is always two halves in
//! two fields, so that one task may read while another writes; there is no state in which reading or writing is
//! impossible. The [`Handler`] gives the commands their meaning: this crate knows none.

pub mod authentication;
pub mod client;
pub mod connection;
pub mod copy;
pub mod error;
mod extended;
pub mod handler;
pub mod handshake;
pub mod io;
mod result_set;
mod serve;
pub mod stream;
pub mod tls;
mod tls_stream;

pub use connection::Connection;
pub use copy::{CopyBoth, CopyMessage, CopyReader, CopyWriter};
pub use error::{HandshakeError, QueryError, TlsError};
pub use handler::{AfterCopy, Answer, CopyEnd, Handler};
pub use handshake::{Accepted, HandshakeConfig, Session, TlsMode};
pub use io::Io;
pub use result_set::ResultSet;
pub use serve::{ClosedBy, QUERY_BYTES_MAX, serve};
pub use stream::Stream;
pub use tls::ServerTls;
pub use tls_stream::TlsStream;
