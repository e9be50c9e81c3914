//! [`Io`]: what a connection can run on.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream that a connection can run on: a socket, or a pipe in memory in tests.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for S {}
