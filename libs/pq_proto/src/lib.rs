//! Codec of PostgreSQL's frontend/backend protocol, version 3: encodes and decodes every message **in both directions**
//! (PostgreSQL documentation, "Frontend/Backend Protocol").
//!
//! ```text
//!   socket -> framed -> Frame { tag, body } -> FrontendMessage | BackendMessage
//!                                                   CopyData(payload) -> replication::{FromPrimary, FromStandby}
//! ```
//!
//! One codec for both directions serves the servers, the client that reads WAL from a primary, and the proxy, which is
//! both. Bodies are [`bytes::Bytes`]: decoding copies no payload. Only [`framed`] does IO. Nothing here knows about TLS,
//! passwords or commands.

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
pub use error::{FramedError, ProtocolError};
pub use error_response::{ErrorResponse, Severity};
pub use framed::{FramedReader, FramedWriter};
pub use frontend::{FrontendMessage, Target};
pub use row::FieldDescription;
pub use sqlstate::SqlState;
pub use startup::{StartupPacket, StartupParams};
pub use text::Text;
pub use version::ProtocolVersion;
pub use wire::{Encode, Frame};
