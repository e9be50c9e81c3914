//! [`FieldDescription`]: describes one column of a result (PostgreSQL documentation, "Message Formats", RowDescription).

use bytes::{BufMut, BytesMut};

use crate::error::ProtocolError;
use crate::text::Text;
use crate::wire::{Cursor, put_text};

/// Bytes of a description with an empty name: the shortest one.
pub(crate) const FIELD_BYTES_MIN: usize = 19;

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDescription {
    /// Name of the column.
    pub name: Text,
    /// Object id of the table that the column comes from, or 0.
    pub table_oid: u32,
    /// Attribute number of the column in that table, or 0.
    pub column: i16,
    /// Object id of the type.
    pub type_oid: u32,
    /// Size of the type in bytes; negative when it varies.
    pub type_len: i16,
    /// Type modifier; -1 for none.
    pub type_modifier: i32,
    /// Format of the values: 0 for text, 1 for binary.
    pub format: i16,
}

impl FieldDescription {
    /// A computed column of type `text` (object id 25).
    pub fn text(name: impl Into<Text>) -> Self {
        Self::of_type(name, 25, -1)
    }

    /// A computed column of type `int4` (object id 23), sent in text form.
    pub fn int4(name: impl Into<Text>) -> Self {
        Self::of_type(name, 23, 4)
    }

    /// A computed column of type `int8` (object id 20), sent in text form.
    pub fn int8(name: impl Into<Text>) -> Self {
        Self::of_type(name, 20, 8)
    }

    fn of_type(name: impl Into<Text>, type_oid: u32, type_len: i16) -> Self {
        Self { name: name.into(), table_oid: 0, column: 0, type_oid, type_len, type_modifier: -1, format: 0 }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.name);
        out.put_u32(self.table_oid);
        out.put_i16(self.column);
        out.put_u32(self.type_oid);
        out.put_i16(self.type_len);
        out.put_i32(self.type_modifier);
        out.put_i16(self.format);
    }

    pub(crate) fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(Self {
            name: cursor.text()?,
            table_oid: cursor.u32()?,
            column: cursor.i16()?,
            type_oid: cursor.u32()?,
            type_len: cursor.i16()?,
            type_modifier: cursor.i32()?,
            format: cursor.i16()?,
        })
    }
}
