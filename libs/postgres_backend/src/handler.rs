//! [`Handler`]: runs the commands that [`crate::serve`] reads. Implemented by the servers.

use std::future::Future;

use bytes::Bytes;
use pq_proto::{ErrorResponse, FieldDescription, Text};

use crate::connection::Connection;
use crate::copy::CopyBoth;
use crate::error::QueryError;
use crate::io::Io;
use crate::result_set::ResultSet;

/// The commands of a server, for one connection.
pub trait Handler<S: Io>: Send {
    /// Passed from a command that begins a copy to [`Handler::copy_both`]; `Infallible` when no command does.
    type Copy: Send;

    /// Runs one command. It returns most answers as values; a long answer may be written to `connection`.
    fn query(
        &mut self,
        connection: &mut Connection<S>,
        query: &str,
    ) -> impl Future<Output = Result<Answer<Self::Copy>, QueryError>> + Send;

    /// Returns the columns of the command's first result without running it: the extended protocol asks for them in
    /// advance. Handlers that serve only the simple protocol need no override.
    fn describe(&mut self, query: &str) -> Result<Vec<FieldDescription>, ErrorResponse> {
        let _ = query;
        Ok(Vec::new())
    }

    /// Runs a copy until one side ends it, and returns the halves of the connection.
    fn copy_both(&mut self, copy: Self::Copy, stream: CopyBoth<S>)
    -> impl Future<Output = CopyEnd<S>> + Send;
}

/// Answer of a command.
#[derive(Debug)]
pub enum Answer<C> {
    /// `serve` sends these results.
    Results(Vec<ResultSet>),
    /// The handler wrote the results itself.
    Written,
    /// `serve` sends CopyBothResponse and then calls [`Handler::copy_both`].
    CopyBoth(C),
}

impl<C> Answer<C> {
    /// The answer of a command without rows.
    pub fn done(tag: impl Into<Text>) -> Self {
        Self::Results(vec![ResultSet::tag(tag)])
    }

    /// The answer of a command with one row of text values.
    pub fn row(
        columns: impl IntoIterator<Item = FieldDescription>,
        values: impl IntoIterator<Item = Option<String>>,
        tag: impl Into<Text>,
    ) -> Self {
        let row = values.into_iter().map(|value| value.map(Bytes::from)).collect();
        Self::Results(vec![ResultSet {
            columns: columns.into_iter().collect(),
            rows: vec![row],
            tag: tag.into(),
        }])
    }
}

/// End of a copy. Each direction has its own result: neither hides the other's.
#[derive(Debug)]
pub struct CopyEnd<S> {
    /// The halves of the connection.
    pub stream: CopyBoth<S>,
    /// Result of the receiving direction.
    pub received: Result<(), QueryError>,
    /// Result of the sending direction; it decides how the connection goes on.
    pub sent: Result<AfterCopy, QueryError>,
}

impl<S> CopyEnd<S> {
    /// The end of a copy with one result for both directions.
    pub fn new(stream: CopyBoth<S>, outcome: Result<AfterCopy, QueryError>) -> Self {
        Self { stream, received: Ok(()), sent: outcome }
    }
}

/// How a connection goes on after a successful copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterCopy {
    /// `serve` sends these results, and the client may send queries. Both sides must have sent CopyDone.
    Ready(Vec<ResultSet>),
    /// `serve` closes the connection.
    Close,
}
