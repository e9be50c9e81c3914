//! [`ResultSet`]: the columns, rows and command tag that answer one command. Made by handlers, sent by `serve`.

use bytes::Bytes;
use pq_proto::{BackendMessage, FieldDescription, ProtocolError, Text};

use crate::connection::Writer;
use crate::io::Io;

/// One result: columns, rows and command tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultSet {
    /// Empty for a command without rows.
    pub columns: Vec<FieldDescription>,
    /// Rows with one value for each column; `None` for NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// The command tag.
    pub tag: Text,
}

impl ResultSet {
    /// A result without columns and rows.
    pub fn tag(tag: impl Into<Text>) -> Self {
        Self { columns: Vec::new(), rows: Vec::new(), tag: tag.into() }
    }
    /// Buffers the rows and the command tag. The columns go first unless the client knows them.
    pub(crate) fn put<S: Io>(self, writer: &mut Writer<S>, columns_known: bool) -> Result<(), ProtocolError> {
        let Self { columns, rows, tag } = self;
        if !columns.is_empty() && !columns_known {
            writer.put(&BackendMessage::RowDescription(columns))?;
        }
        rows.into_iter().try_for_each(|row| writer.put(&BackendMessage::DataRow(row)))?;
        writer.put(&BackendMessage::CommandComplete(tag))
    }
}
