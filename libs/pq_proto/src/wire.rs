//! The protocol's data types: a checked cursor to read them, functions to write them, and the frame around a message.
//!
//! Used by every codec of this crate, and by codecs above it for payloads inside CopyData. Nothing here panics on any
//! input: a field that reaches past the end is [`ProtocolError::Truncated`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::text::Text;

/// One undecoded message: its type byte and its body, without the length word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// The bytes behind the length word.
    pub body: Bytes,
}

/// A message that can be put on the wire.
pub trait Encode {
    /// Appends the whole message, type byte and length word included. On an error `out` is unchanged.
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError>;
}

impl Encode for Frame {
    /// Encodes the message unchanged, for a caller that passes it on.
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        write_frame(out, self.tag, |out| {
            out.put_slice(&self.body);
            Ok(())
        })
    }
}

/// Appends a message: `tag`, the length word, and the bytes that `body` writes. On an error `out` is unchanged.
pub fn write_frame(
    out: &mut BytesMut,
    tag: u8,
    body: impl FnOnce(&mut BytesMut) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    let start = out.len();
    out.put_u8(tag);
    write_length_prefixed(out, body).inspect_err(|_| out.truncate(start))
}

/// Appends an `Int32` length that counts itself, and the bytes that `body` writes. On an error `out` is unchanged.
pub fn write_length_prefixed(
    out: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    let start = out.len();
    out.put_i32(0);
    let result =
        body(out).and_then(|()| i32::try_from(out.len() - start).map_err(|_| ProtocolError::DoesNotFit));
    match result {
        Ok(length) => {
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends a string and its terminating zero byte.
pub fn put_text(out: &mut BytesMut, text: &Text) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// Appends an `Int16` count of `items`, then each of them.
pub fn put_counted<T>(
    out: &mut BytesMut,
    items: &[T],
    mut put: impl FnMut(&mut BytesMut, &T) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    // The count is unsigned in practice: a Bind may carry 65 535 parameters.
    out.put_u16(u16::try_from(items.len()).map_err(|_| ProtocolError::DoesNotFit)?);
    items.iter().try_for_each(|item| put(out, item))
}

/// Appends a value with its `Int32` length; a length of -1 stands for NULL.
pub fn put_value(out: &mut BytesMut, value: Option<&Bytes>) -> Result<(), ProtocolError> {
    let Some(value) = value else {
        out.put_i32(-1);
        return Ok(());
    };
    out.put_i32(i32::try_from(value.len()).map_err(|_| ProtocolError::DoesNotFit)?);
    out.put_slice(value);
    Ok(())
}

/// A checked reader over the body of a message. A field that reaches past the end is [`ProtocolError::Truncated`].
#[derive(Debug)]
pub struct Cursor {
    rest: Bytes,
}

impl Cursor {
    /// Starts at the first byte of `body`.
    pub fn new(body: Bytes) -> Self {
        Self { rest: body }
    }

    /// Reads a `Byte1`.
    pub fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.rest.try_get_u8().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads an `Int16`.
    pub fn i16(&mut self) -> Result<i16, ProtocolError> {
        self.rest.try_get_i16().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads an `Int32`.
    pub fn i32(&mut self) -> Result<i32, ProtocolError> {
        self.rest.try_get_i32().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads an `Int32` that holds an object id, a transaction id or a version.
    pub fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.rest.try_get_u32().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads an `Int64`.
    pub fn i64(&mut self) -> Result<i64, ProtocolError> {
        self.rest.try_get_i64().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads an `Int64` that holds a WAL position.
    pub fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.rest.try_get_u64().map_err(|_| ProtocolError::Truncated)
    }

    /// Reads `count` bytes without a copy.
    pub fn bytes(&mut self, count: usize) -> Result<Bytes, ProtocolError> {
        if count > self.rest.len() {
            return Err(ProtocolError::Truncated);
        }
        Ok(self.rest.split_to(count))
    }

    /// Reads a string and its terminating zero byte, without a copy.
    pub fn text(&mut self) -> Result<Text, ProtocolError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(ProtocolError::UnterminatedText)?;
        let text = Text::new(self.rest.split_to(end));
        self.rest.advance(1);
        Ok(text)
    }

    /// Reads a value behind its `Int32` length; a length of -1 stands for NULL.
    pub fn value(&mut self) -> Result<Option<Bytes>, ProtocolError> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(count) => self.bytes(count).map(Some),
                Err(_) => Err(ProtocolError::InvalidValue { field: "value length", value: length.into() }),
            },
        }
    }

    /// Reads an `Int16` count and as many items, each of at least `item_bytes_min` bytes. A count that the message cannot
    /// hold is refused before anything is allocated for it.
    pub fn counted<T>(
        &mut self,
        item_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>, ProtocolError> {
        let count = usize::from(self.rest.try_get_u16().map_err(|_| ProtocolError::Truncated)?);
        if count * item_bytes_min > self.rest.len() {
            return Err(ProtocolError::Truncated);
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// Reads all bytes that are left.
    pub fn read_to_end(&mut self) -> Bytes {
        self.rest.split_off(0)
    }

    /// Number of bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that the message ends here.
    pub fn finish(self) -> Result<(), ProtocolError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(ProtocolError::TrailingBytes(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_refuses_a_count_beyond_the_message() {
        let mut cursor = Cursor::new(Bytes::from_static(b"\xff\xff\0\0"));
        assert_eq!(cursor.counted(4, Cursor::i32), Err(ProtocolError::Truncated));
    }

    #[test]
    fn frame_is_encoded_as_it_came() {
        let mut out = BytesMut::new();
        Frame { tag: b'E', body: Bytes::from_static(b"SFATAL\0\0") }.encode(&mut out).unwrap();
        assert_eq!(&out[..], b"E\0\0\0\x0cSFATAL\0\0");
    }

    #[test]
    fn cursor_refuses_a_value_beyond_the_message() {
        for (body, expected) in [
            (&b"\x7f\xff\xff\xffabc"[..], ProtocolError::Truncated),
            (b"\0\0\0\x04abc", ProtocolError::Truncated),
            (b"\xff\xff\xff\xfeabc", ProtocolError::InvalidValue { field: "value length", value: -2 }),
        ] {
            assert_eq!(Cursor::new(Bytes::from_static(body)).value(), Err(expected));
        }
    }

    #[test]
    fn failed_encoding_leaves_the_buffer_unchanged() {
        let mut out = BytesMut::from("before");
        let too_many = vec![0u8; 65_536];
        let result = write_frame(&mut out, b'B', |out| put_counted(out, &too_many, |_, _| Ok(())));
        assert_eq!(result, Err(ProtocolError::DoesNotFit));
        assert_eq!(out, "before");
    }
}
