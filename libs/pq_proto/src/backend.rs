//! [`BackendMessage`]: a message that a server sends. Servers encode it, clients decode it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::authentication::Authentication;
use crate::error::ProtocolError;
use crate::error_response::ErrorResponse;
use crate::row::{FIELD_BYTES_MIN, FieldDescription};
use crate::text::Text;
use crate::version::ProtocolVersion;
use crate::wire::{Cursor, Encode, Frame, put_counted, put_text, put_value, write_frame};

/// A message of a server (PostgreSQL documentation, "Message Formats", those marked B).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendMessage {
    /// `R`
    Authentication(Authentication),
    /// `S`: the value of a setting that is reported to clients.
    ParameterStatus {
        /// Name of the setting.
        name: Text,
        /// Its value.
        value: Text,
    },
    /// `K`: the key that a cancel request for this connection must show.
    BackendKeyData {
        /// Process id.
        pid: i32,
        /// Secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
        key: Bytes,
    },
    /// `Z`: the server waits for the next command.
    ReadyForQuery(TransactionStatus),
    /// `T`: the columns of the rows that follow.
    RowDescription(Vec<FieldDescription>),
    /// `D`: the values of a row, `None` for NULL.
    DataRow(Vec<Option<Bytes>>),
    /// `C`: the command tag.
    CommandComplete(Text),
    /// `I`: answers an empty query.
    EmptyQueryResponse,
    /// `E`: an error.
    ErrorResponse(ErrorResponse),
    /// `N`: a notice.
    NoticeResponse(ErrorResponse),
    /// `1`: answers Parse.
    ParseComplete,
    /// `2`: answers Bind.
    BindComplete,
    /// `3`: answers Close.
    CloseComplete,
    /// `n`: answers Describe where there are no columns.
    NoData,
    /// `t`: object ids of a statement's parameters.
    ParameterDescription(Vec<u32>),
    /// `s`: Execute stopped at its row limit.
    PortalSuspended,
    /// `G`: the client shall send COPY data.
    CopyInResponse(CopyFormat),
    /// `H`: the server will send COPY data.
    CopyOutResponse(CopyFormat),
    /// `W`: both sides send COPY data at once, as replication does.
    CopyBothResponse(CopyFormat),
    /// `d`: a piece of COPY data.
    CopyData(Bytes),
    /// `c`: the server's COPY data is complete.
    CopyDone,
    /// `v`: the server speaks an older minor version, or does not know some protocol options.
    NegotiateProtocolVersion {
        /// The newest version with the client's major that the server speaks.
        newest: ProtocolVersion,
        /// Protocol options (`_pq_.…`) that the server does not know.
        unsupported: Vec<Text>,
    },
    /// `A`: a notification (NOTIFY).
    NotificationResponse {
        /// Process id of the notifying backend.
        pid: i32,
        /// Name of the channel.
        channel: Text,
        /// Payload of the notification.
        payload: Text,
    },
    /// `V`: result of a fast-path function call; `None` for NULL.
    FunctionCallResponse(Option<Bytes>),
}

/// State of the transaction in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: no transaction.
    Idle,
    /// `T`: inside a transaction.
    InTransaction,
    /// `E`: inside a failed transaction, which waits for its end.
    Failed,
}

/// Body of the three messages that begin a COPY: formats of the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyFormat {
    /// Format of the copy as a whole: 0 for text, 1 for binary.
    pub overall: u8,
    /// Format of each column, 0 or 1; empty for replication.
    pub columns: Vec<i16>,
}

impl Encode for BackendMessage {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        write_frame(out, self.tag(), |out| self.encode_body(out))
    }
}

impl BackendMessage {
    /// The message's type byte.
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Authentication(_) => b'R',
            Self::ParameterStatus { .. } => b'S',
            Self::BackendKeyData { .. } => b'K',
            Self::ReadyForQuery(_) => b'Z',
            Self::RowDescription(_) => b'T',
            Self::DataRow(_) => b'D',
            Self::CommandComplete(_) => b'C',
            Self::EmptyQueryResponse => b'I',
            Self::ErrorResponse(_) => b'E',
            Self::NoticeResponse(_) => b'N',
            Self::ParseComplete => b'1',
            Self::BindComplete => b'2',
            Self::CloseComplete => b'3',
            Self::NoData => b'n',
            Self::ParameterDescription(_) => b't',
            Self::PortalSuspended => b's',
            Self::CopyInResponse(_) => b'G',
            Self::CopyOutResponse(_) => b'H',
            Self::CopyBothResponse(_) => b'W',
            Self::CopyData(_) => b'd',
            Self::CopyDone => b'c',
            Self::NegotiateProtocolVersion { .. } => b'v',
            Self::NotificationResponse { .. } => b'A',
            Self::FunctionCallResponse(_) => b'V',
        }
    }

    fn encode_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Authentication(request) => request.encode(out),
            Self::ParameterStatus { name, value } => {
                put_text(out, name);
                put_text(out, value);
            }
            Self::BackendKeyData { pid, key } => {
                out.put_i32(*pid);
                out.put_slice(key);
            }
            Self::ReadyForQuery(status) => out.put_u8(status.as_byte()),
            Self::RowDescription(fields) => {
                return put_counted(out, fields, |out, field| {
                    field.encode(out);
                    Ok(())
                });
            }
            Self::DataRow(values) => {
                return put_counted(out, values, |out, value| put_value(out, value.as_ref()));
            }
            Self::CommandComplete(tag) => put_text(out, tag),
            Self::ErrorResponse(response) | Self::NoticeResponse(response) => response.encode_fields(out),
            Self::ParameterDescription(oids) => {
                return put_counted(out, oids, |out, oid| {
                    out.put_u32(*oid);
                    Ok(())
                });
            }
            Self::CopyInResponse(format) | Self::CopyOutResponse(format) | Self::CopyBothResponse(format) => {
                return format.encode(out);
            }
            Self::CopyData(data) => out.put_slice(data),
            Self::NegotiateProtocolVersion { newest, unsupported } => {
                out.put_u32(newest.0);
                out.put_i32(i32::try_from(unsupported.len()).map_err(|_| ProtocolError::DoesNotFit)?);
                unsupported.iter().for_each(|name| put_text(out, name));
            }
            Self::NotificationResponse { pid, channel, payload } => {
                out.put_i32(*pid);
                put_text(out, channel);
                put_text(out, payload);
            }
            Self::FunctionCallResponse(value) => return put_value(out, value.as_ref()),
            Self::EmptyQueryResponse
            | Self::ParseComplete
            | Self::BindComplete
            | Self::CloseComplete
            | Self::NoData
            | Self::PortalSuspended
            | Self::CopyDone => {}
        }
        Ok(())
    }

    /// Decodes a message of a server. Bytes behind the last field are an error.
    pub fn decode(frame: Frame) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(frame.body);
        let message = match frame.tag {
            b'R' => Self::Authentication(Authentication::decode(&mut cursor)?),
            b'S' => Self::ParameterStatus { name: cursor.text()?, value: cursor.text()? },
            b'K' => Self::BackendKeyData { pid: cursor.i32()?, key: cursor.read_to_end() },
            b'Z' => Self::ReadyForQuery(TransactionStatus::from_byte(cursor.u8()?)?),
            b'T' => Self::RowDescription(cursor.counted(FIELD_BYTES_MIN, FieldDescription::decode)?),
            b'D' => Self::DataRow(cursor.counted(4, Cursor::value)?),
            b'C' => Self::CommandComplete(cursor.text()?),
            b'I' => Self::EmptyQueryResponse,
            b'E' => Self::ErrorResponse(ErrorResponse::decode(cursor.read_to_end())?),
            b'N' => Self::NoticeResponse(ErrorResponse::decode(cursor.read_to_end())?),
            b'1' => Self::ParseComplete,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'n' => Self::NoData,
            b't' => Self::ParameterDescription(cursor.counted(4, Cursor::u32)?),
            b's' => Self::PortalSuspended,
            b'G' => Self::CopyInResponse(CopyFormat::decode(&mut cursor)?),
            b'H' => Self::CopyOutResponse(CopyFormat::decode(&mut cursor)?),
            b'W' => Self::CopyBothResponse(CopyFormat::decode(&mut cursor)?),
            b'd' => Self::CopyData(cursor.read_to_end()),
            b'c' => Self::CopyDone,
            b'v' => Self::NegotiateProtocolVersion {
                newest: ProtocolVersion(cursor.u32()?),
                unsupported: decode_names(&mut cursor)?,
            },
            b'A' => Self::NotificationResponse {
                pid: cursor.i32()?,
                channel: cursor.text()?,
                payload: cursor.text()?,
            },
            b'V' => Self::FunctionCallResponse(cursor.value()?),
            other => return Err(ProtocolError::UnknownTag(other)),
        };
        cursor.finish().map(|()| message)
    }
}

fn decode_names(cursor: &mut Cursor) -> Result<Vec<Text>, ProtocolError> {
    let count = cursor.i32()?;
    // Each name takes at least one byte, so a count above the bytes left cannot be true.
    match usize::try_from(count) {
        Ok(count) if count <= cursor.remaining() => (0..count).map(|_| cursor.text()).collect(),
        _ => Err(ProtocolError::InvalidValue { field: "number of options", value: count.into() }),
    }
}

impl TransactionStatus {
    const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }

    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            b'I' => Ok(Self::Idle),
            b'T' => Ok(Self::InTransaction),
            b'E' => Ok(Self::Failed),
            other => Err(ProtocolError::InvalidValue { field: "transaction status", value: other.into() }),
        }
    }
}

impl CopyFormat {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        out.put_u8(self.overall);
        put_counted(out, &self.columns, |out, format| {
            out.put_i16(*format);
            Ok(())
        })
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(Self { overall: cursor.u8()?, columns: cursor.counted(2, Cursor::i16)? })
    }
}
