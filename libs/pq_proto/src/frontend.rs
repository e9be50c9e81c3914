//! [`FrontendMessage`]: a message that a client sends after the startup packet. Servers decode it, clients encode it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::text::Text;
use crate::wire::{Cursor, Encode, Frame, put_counted, put_text, put_value, write_frame};

/// A message of a client (PostgreSQL documentation, "Message Formats", those marked F).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontendMessage {
    /// `Q`: a simple query.
    Query(Text),
    /// `P`: creates a prepared statement.
    Parse(Parse),
    /// `B`: creates a portal from a prepared statement.
    Bind(Bind),
    /// `D`: asks for the columns of a statement or portal.
    Describe(Target),
    /// `E`: runs a portal.
    Execute {
        /// Name of the portal.
        portal: Text,
        /// Most rows to return; 0 for all.
        rows_max: i32,
    },
    /// `C`: closes a statement or portal.
    Close(Target),
    /// `H`: asks the server to send its buffered answers.
    Flush,
    /// `S`: ends a group of extended-query messages.
    Sync,
    /// `X`: ends the session.
    Terminate,
    /// `p`: a password, or a SASL, GSS or SSPI answer. Only the authentication in progress knows which.
    PasswordMessage(Bytes),
    /// `d`: a piece of COPY data.
    CopyData(Bytes),
    /// `c`: the client's COPY data is complete.
    CopyDone,
    /// `f`: the client aborts its COPY, with a reason.
    CopyFail(Text),
    /// `F`: the legacy fast-path function call.
    FunctionCall(FunctionCall),
}

/// A prepared statement or a portal, by name; the empty name is the unnamed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `S`: a prepared statement.
    Statement(Text),
    /// `P`: a portal.
    Portal(Text),
}

/// Body of Parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse {
    /// Name of the statement.
    pub statement: Text,
    /// The query.
    pub query: Text,
    /// Object ids of the parameters' types; 0 where the server shall infer the type.
    pub parameter_types: Vec<u32>,
}

/// Body of Bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Name of the portal.
    pub portal: Text,
    /// Name of the statement.
    pub statement: Text,
    /// Formats of the parameters: none, one for all, or one for each (0 text, 1 binary).
    pub parameter_formats: Vec<i16>,
    /// Values of the parameters; `None` for NULL.
    pub parameters: Vec<Option<Bytes>>,
    /// Formats of the result columns: none, one for all, or one for each (0 text, 1 binary).
    pub result_formats: Vec<i16>,
}

/// Body of FunctionCall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionCall {
    /// Object id of the function.
    pub function_oid: u32,
    /// Formats of the arguments: none, one for all, or one for each (0 text, 1 binary).
    pub argument_formats: Vec<i16>,
    /// Values of the arguments; `None` for NULL.
    pub arguments: Vec<Option<Bytes>>,
    /// Format of the result.
    pub result_format: i16,
}

impl Encode for FrontendMessage {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        write_frame(out, self.tag(), |out| self.encode_body(out))
    }
}

impl FrontendMessage {
    /// The message's type byte.
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Query(_) => b'Q',
            Self::Parse(_) => b'P',
            Self::Bind(_) => b'B',
            Self::Describe(_) => b'D',
            Self::Execute { .. } => b'E',
            Self::Close(_) => b'C',
            Self::Flush => b'H',
            Self::Sync => b'S',
            Self::Terminate => b'X',
            Self::PasswordMessage(_) => b'p',
            Self::CopyData(_) => b'd',
            Self::CopyDone => b'c',
            Self::CopyFail(_) => b'f',
            Self::FunctionCall(_) => b'F',
        }
    }

    fn encode_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Query(text) | Self::CopyFail(text) => put_text(out, text),
            Self::Parse(parse) => return parse.encode(out),
            Self::Bind(bind) => return bind.encode(out),
            Self::Describe(target) | Self::Close(target) => target.encode(out),
            Self::Execute { portal, rows_max } => {
                put_text(out, portal);
                out.put_i32(*rows_max);
            }
            Self::Flush | Self::Sync | Self::Terminate | Self::CopyDone => {}
            Self::PasswordMessage(data) | Self::CopyData(data) => out.put_slice(data),
            Self::FunctionCall(call) => return call.encode(out),
        }
        Ok(())
    }

    /// Decodes a message of a client. Bytes behind the last field are an error.
    pub fn decode(frame: Frame) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(frame.body);
        let message = match frame.tag {
            b'Q' => Self::Query(cursor.text()?),
            b'P' => Self::Parse(Parse::decode(&mut cursor)?),
            b'B' => Self::Bind(Bind::decode(&mut cursor)?),
            b'D' => Self::Describe(Target::decode(&mut cursor)?),
            b'E' => Self::Execute { portal: cursor.text()?, rows_max: cursor.i32()? },
            b'C' => Self::Close(Target::decode(&mut cursor)?),
            b'H' => Self::Flush,
            b'S' => Self::Sync,
            b'X' => Self::Terminate,
            b'p' => Self::PasswordMessage(cursor.read_to_end()),
            b'd' => Self::CopyData(cursor.read_to_end()),
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail(cursor.text()?),
            b'F' => Self::FunctionCall(FunctionCall::decode(&mut cursor)?),
            other => return Err(ProtocolError::UnknownTag(other)),
        };
        cursor.finish().map(|()| message)
    }
}

impl Target {
    fn encode(&self, out: &mut BytesMut) {
        let (kind, name) = match self {
            Self::Statement(name) => (b'S', name),
            Self::Portal(name) => (b'P', name),
        };
        out.put_u8(kind);
        put_text(out, name);
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        match cursor.u8()? {
            b'S' => cursor.text().map(Self::Statement),
            b'P' => cursor.text().map(Self::Portal),
            other => Err(ProtocolError::InvalidValue { field: "kind of target", value: other.into() }),
        }
    }
}

impl Parse {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        put_text(out, &self.statement);
        put_text(out, &self.query);
        put_counted(out, &self.parameter_types, |out, oid| {
            out.put_u32(*oid);
            Ok(())
        })
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(Self {
            statement: cursor.text()?,
            query: cursor.text()?,
            parameter_types: cursor.counted(4, Cursor::u32)?,
        })
    }
}

impl Bind {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        put_text(out, &self.portal);
        put_text(out, &self.statement);
        put_formats(out, &self.parameter_formats)?;
        put_counted(out, &self.parameters, |out, value| put_value(out, value.as_ref()))?;
        put_formats(out, &self.result_formats)
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(Self {
            portal: cursor.text()?,
            statement: cursor.text()?,
            parameter_formats: cursor.counted(2, Cursor::i16)?,
            parameters: cursor.counted(4, Cursor::value)?,
            result_formats: cursor.counted(2, Cursor::i16)?,
        })
    }
}

impl FunctionCall {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        out.put_u32(self.function_oid);
        put_formats(out, &self.argument_formats)?;
        put_counted(out, &self.arguments, |out, value| put_value(out, value.as_ref()))?;
        out.put_i16(self.result_format);
        Ok(())
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(Self {
            function_oid: cursor.u32()?,
            argument_formats: cursor.counted(2, Cursor::i16)?,
            arguments: cursor.counted(4, Cursor::value)?,
            result_format: cursor.i16()?,
        })
    }
}

fn put_formats(out: &mut BytesMut, formats: &[i16]) -> Result<(), ProtocolError> {
    put_counted(out, formats, |out, format| {
        out.put_i16(*format);
        Ok(())
    })
}
