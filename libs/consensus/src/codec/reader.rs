//! [`MessageReader`]: reads the fields of one message.
//!
//! Every read first checks how many bytes are left. Numbers are big-endian unless the method says otherwise.

use bytes::{Buf, Bytes};

use super::error::CodecError;

/// The bytes of one message that are not read yet.
pub(super) struct MessageReader(Bytes);

impl MessageReader {
    pub(super) const fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Bytes not read yet.
    pub(super) fn bytes_left(&self) -> usize {
        self.0.len()
    }

    /// The next `count` bytes; they share the memory of the message.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, CodecError> {
        if count > self.bytes_left() {
            return Err(CodecError::Short { needed: count, left: self.bytes_left() });
        }
        Ok(self.0.split_to(count))
    }

    /// All bytes that are left.
    pub(super) fn remaining(&mut self) -> Bytes {
        self.0.split_off(0)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        if N > self.bytes_left() {
            return Err(CodecError::Short { needed: N, left: self.bytes_left() });
        }
        let mut array = [0; N];
        self.0.copy_to_slice(&mut array);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u32_le(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64_le(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The bytes up to the next zero byte, which is read too and left out; at most `bytes_max` bytes.
    pub(super) fn cstr(&mut self, what: &'static str, bytes_max: usize) -> Result<Bytes, CodecError> {
        let end = self.0.iter().take(bytes_max.saturating_add(1)).position(|&byte| byte == 0);
        let text = self.bytes(end.ok_or(CodecError::Text(what))?)?;
        self.0.advance(1);
        Ok(text)
    }

    /// As [`MessageReader::cstr`], and UTF-8.
    pub(super) fn text(&mut self, what: &'static str, bytes_max: usize) -> Result<String, CodecError> {
        let text = self.cstr(what, bytes_max)?;
        str::from_utf8(&text).map(str::to_owned).map_err(|_| CodecError::Text(what))
    }

    /// `count` as a length to allocate for: it is within the limit, and enough bytes are left for the entries.
    pub(super) fn checked_count(
        &self,
        what: &'static str,
        count: u32,
        max: usize,
        entry_bytes_min: usize,
    ) -> Result<usize, CodecError> {
        let entries = count as usize;
        if entries > max {
            return Err(CodecError::TooMany { what, count, max });
        }
        let needed = entries * entry_bytes_min;
        if needed > self.bytes_left() {
            return Err(CodecError::Short { needed, left: self.bytes_left() });
        }
        Ok(entries)
    }
}

/// A flag. Any value but 0 and 1 is refused: a vote must not be guessed from garbage.
pub(super) fn flag(what: &'static str, value: u64) -> Result<bool, CodecError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(CodecError::Flag { what, value }),
    }
}
