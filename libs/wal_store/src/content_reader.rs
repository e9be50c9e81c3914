//! [`ContentReader`]: reads little-endian fields and lists from the content of the control file.

use crate::error::{Corruption, StoreError};

/// The bytes that are left to read.
pub(crate) struct ContentReader<'a>(&'a [u8]);

impl<'a> ContentReader<'a> {
    pub(crate) fn new(content: &'a [u8]) -> Self {
        Self(content)
    }

    /// True at the end of the content.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, bytes: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) =
            self.0.split_at_checked(bytes).ok_or_else(|| invalid("content ends inside a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (taken, rest) =
            self.0.split_first_chunk().ok_or_else(|| invalid("content ends inside a field"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StoreError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a count, then that many items of at least `item_bytes_min` bytes each. The count is compared with the bytes
    /// that are left before memory is allocated for it.
    pub(crate) fn list<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let items = self.u32()? as usize;
        if items > self.0.len() / item_bytes_min {
            return Err(invalid("a list is longer than the content"));
        }
        (0..items).map(|_| item(self)).collect()
    }
}

/// Damage of a kind that the checksum did not notice.
pub(crate) fn invalid(reason: &'static str) -> StoreError {
    Corruption::ControlContent(reason).into()
}
