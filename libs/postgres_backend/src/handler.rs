//! [`Handler`]: what a server does with the commands that [`crate::serve`] reads. Implemented by the servers.

use std::future::Future;

use bytes::Bytes;
use pq_proto::{ErrorResponse, FieldDescription, Text};

use crate::connection::Connection;
use crate::copy::CopyBoth;
use crate::error::QueryError;
use crate::result_set::ResultSet;
use crate::stream::Io;

/// The commands of a server, for one connection.
pub trait Handler<S: Io>: Send {
    /// What a command that begins a copy passes on to [`Handler::copy_both`]; `Infallible` when there is none.
    type Copy: Send;

    /// Runs one command. Most answers are values; a long one may be written to the connection.
    fn query(
        &mut self,
        connection: &mut Connection<S>,
        query: &str,
    ) -> impl Future<Output = Result<Answer<Self::Copy>, QueryError>> + Send;

    /// The columns that the command's first result will have, without running it: what the extended protocol asks for
    /// in advance. Clients of the simple protocol need no override.
    fn describe(&mut self, query: &str) -> Result<Vec<FieldDescription>, ErrorResponse> {
        let _ = query;
        Ok(Vec::new())
    }

    /// Runs a copy until one side ends it, and gives the halves back.
    fn copy_both(&mut self, copy: Self::Copy, stream: CopyBoth<S>)
    -> impl Future<Output = CopyEnd<S>> + Send;
}

/// What a command comes to.
#[derive(Debug)]
pub enum Answer<C> {
    /// These results are sent.
    Results(Vec<ResultSet>),
    /// The handler wrote the results itself.
    Written,
    /// The client is told that CopyBoth begins, then [`Handler::copy_both`] runs.
    CopyBoth(C),
}

impl<C> Answer<C> {
    /// A command without rows.
    pub fn done(tag: impl Into<Text>) -> Self {
        Self::Results(vec![ResultSet::tag(tag)])
    }

    /// A command with one row.
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

/// How a copy ended. Both sides have their own outcome: neither hides the other's.
#[derive(Debug)]
pub struct CopyEnd<S> {
    /// The halves.
    pub stream: CopyBoth<S>,
    /// What ended the receiving side.
    pub received: Result<(), QueryError>,
    /// What ended the sending side, and so what happens next.
    pub sent: Result<AfterCopy, QueryError>,
}

impl<S> CopyEnd<S> {
    /// For a copy with one outcome.
    pub fn new(stream: CopyBoth<S>, outcome: Result<AfterCopy, QueryError>) -> Self {
        Self { stream, received: Ok(()), sent: outcome }
    }
}

/// What a connection does after a copy that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterCopy {
    /// These results are sent, and the client may go on with queries. Both sides must have sent CopyDone.
    Ready(Vec<ResultSet>),
    /// The connection ends.
    Close,
}
