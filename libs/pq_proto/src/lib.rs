//! PostgreSQL's frontend/backend protocol, version 3: every message, encoded and decoded **in both directions**
//! (PostgreSQL documentation, "Frontend/Backend Protocol").
//!
//! ```text
//!   socket -> framed -> Frame { tag, body } -> FrontendMessage | BackendMessage
//!                                                   CopyData(payload) -> replication::{FromPrimary, FromStandby}
//! ```
//!
//! Both directions, so that one codec serves the servers, the client that reads WAL from a primary, and a proxy that
//! is both. Bodies are [`bytes::Bytes`]: decoding copies no payload. Only [`framed`] does IO; nothing here knows
//! about TLS, passwords or commands.

pub mod authentication;
pub mod backend;
pub mod error;
pub mod error_response;
pub mod framed;
pub mod frontend;
pub mod replication;
pub mod row;
pub mod sqlstate;
pub mod startup;
pub mod text;
pub mod version;
pub mod wire;

pub use authentication::Authentication;
pub use backend::{BackendMessage, TransactionStatus};
pub use error::ProtocolError;
pub use error_response::{ErrorResponse, Severity};
pub use framed::{FramedError, FramedReader, FramedWriter};
pub use frontend::{FrontendMessage, Target};
pub use row::FieldDescription;
pub use sqlstate::SqlState;
pub use startup::{StartupPacket, StartupParams};
pub use text::Text;
pub use version::ProtocolVersion;
pub use wire::{Encode, Frame};
