//! [`ErrorResponse`]: the fields of an ErrorResponse or NoticeResponse (PostgreSQL documentation, "Error and Notice
//! Message Fields"). A server builds one to answer a client; a client gets one as an error.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::sqlstate::SqlState;
use crate::text::Text;
use crate::wire::{Cursor, put_text};

/// Severity of an error or notice. It decides whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The command failed, the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    /// Every connection of that server ends.
    Panic,
    /// Any severity of a NoticeResponse.
    Notice(Notice),
}

/// Severities that end neither the command nor the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are PostgreSQL's own")]
pub enum Notice {
    Warning,
    Notice,
    Debug,
    Info,
    Log,
}

impl Severity {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Notice(Notice::Warning) => "WARNING",
            Self::Notice(Notice::Notice) => "NOTICE",
            Self::Notice(Notice::Debug) => "DEBUG",
            Self::Notice(Notice::Info) => "INFO",
            Self::Notice(Notice::Log) => "LOG",
        }
    }

    /// An unknown word counts as an error, which is the cautious reading.
    fn parse(word: &[u8]) -> Self {
        match word {
            b"FATAL" => Self::Fatal,
            b"PANIC" => Self::Panic,
            b"WARNING" => Self::Notice(Notice::Warning),
            b"NOTICE" => Self::Notice(Notice::Notice),
            b"DEBUG" => Self::Notice(Notice::Debug),
            b"INFO" => Self::Notice(Notice::Info),
            b"LOG" => Self::Notice(Notice::Log),
            _ => Self::Error,
        }
    }
}

/// An error or a notice. Texts of a peer are kept as UTF-8; bytes that are not UTF-8 are replaced, because a server that
/// refuses a connection may not know the client's encoding yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ErrorResponse {
    /// Fields `S` and `V`.
    pub severity: Severity,
    /// Field `C`.
    pub sqlstate: SqlState,
    /// Field `M`: the message, one sentence.
    pub message: String,
    /// Field `D`: further detail.
    pub detail: Option<String>,
    /// Field `H`: the remedy.
    pub hint: Option<String>,
    /// Every other field that the peer sent, unchanged: code and text.
    pub other: Vec<(u8, Text)>,
}

impl ErrorResponse {
    /// An error after which the connection goes on.
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// An error that ends the connection.
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// An error or notice of any severity, without detail and hint.
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None, other: Vec::new() }
    }

    /// Sets the detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// True when the connection ends after this message.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, Severity::Fatal | Severity::Panic)
    }

    /// Appends the fields and the terminator, without type byte and length word.
    pub fn encode_fields(&self, out: &mut BytesMut) {
        let mut field = |code: u8, text: &str| {
            out.put_u8(code);
            put_text(out, &Text::from(text));
        };
        field(b'S', self.severity.as_str());
        field(b'V', self.severity.as_str());
        field(b'C', &self.sqlstate.to_string());
        field(b'M', &self.message);
        self.detail.iter().for_each(|text| field(b'D', text));
        self.hint.iter().for_each(|text| field(b'H', text));
        for (code, text) in &self.other {
            out.put_u8(*code);
            put_text(out, text);
        }
        out.put_u8(0);
    }

    /// Decodes the body of an ErrorResponse or NoticeResponse. Servers before 9.6 send no `V`, and a server may leave out
    /// any field. A missing field gets the value of an internal error without a message: an error is never refused for
    /// it.
    pub fn decode(body: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(body);
        let mut response = Self::error(SqlState::INTERNAL_ERROR, "");
        let mut plain_severity = None;
        loop {
            let code = cursor.u8()?;
            if code == 0 {
                break;
            }
            let text = cursor.text()?;
            match code {
                b'S' => {
                    response.severity = plain_severity.unwrap_or_else(|| Severity::parse(text.as_bytes()))
                }
                b'V' => {
                    // `S` is translated into the server's language, `V` never is.
                    response.severity = Severity::parse(text.as_bytes());
                    plain_severity = Some(response.severity);
                }
                b'C' => {
                    if let Some(sqlstate) = SqlState::parse(text.as_bytes()) {
                        response.sqlstate = sqlstate;
                    }
                }
                b'M' => response.message = text.to_str_lossy().into_owned(),
                b'D' => response.detail = Some(text.to_str_lossy().into_owned()),
                b'H' => response.hint = Some(text.to_str_lossy().into_owned()),
                _ => response.other.push((code, text)),
            }
        }
        cursor.finish().map(|()| response)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity.as_str(), self.sqlstate, self.message)?;
        self.detail.iter().try_for_each(|detail| write!(f, " ({detail})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_response_prefers_the_untranslated_severity() {
        let body = Bytes::from_static(b"SFEHLER\0VFATAL\0C57P01\0Mende\0\0");
        let response = ErrorResponse::decode(body).unwrap();
        assert!(response.is_fatal());
        assert_eq!((response.sqlstate, response.message.as_str()), (SqlState::ADMIN_SHUTDOWN, "ende"));
    }

    #[test]
    fn error_response_without_fields_is_an_error() {
        let response = ErrorResponse::decode(Bytes::from_static(b"\0")).unwrap();
        assert_eq!(response.severity, Severity::Error);
        assert_eq!(response.sqlstate, SqlState::INTERNAL_ERROR);
    }

    #[test]
    fn error_response_needs_a_terminator() {
        for body in [&b""[..], b"SERROR\0", b"SERROR", b"SERROR\0\0\0"] {
            assert!(ErrorResponse::decode(Bytes::from_static(body)).is_err(), "{body:?}");
        }
    }
}
