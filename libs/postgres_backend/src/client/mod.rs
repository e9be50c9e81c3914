//! A small client: connects, runs simple queries, enters CopyBoth. Used to read WAL from a primary and to talk to servers
//! of this project. It has no pool and no prepared statements, and sends a password only in clear.

mod connect;
mod copy;
mod error;
mod parameters;
mod query;
mod tls;

pub use self::connect::ConnectOptions;
pub use self::copy::{ClientCopyBoth, ClientCopyMessage, ClientCopyReader};
pub use self::error::ClientError;
pub use self::query::{Client, RESULT_BYTES_MAX, SimpleRow};
pub use self::tls::ClientTls;
