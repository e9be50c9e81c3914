//! [`Image`]: content of a file in pages that clones share until one of them writes.
//!
//! A model disk holds every file twice, and a simulation often copies a disk to see what a power failure would leave.
//! Without sharing these copies would be most of the simulation's work.

use std::sync::Arc;

use super::interface::SECTOR_BYTES;

/// Unit of sharing, in bytes.
const PAGE_BYTES: usize = 8 * SECTOR_BYTES;

/// Bytes of one sector; zeros behind the end of the file.
pub(super) type Sector = [u8; SECTOR_BYTES];

/// Bytes of one file. The last page holds zeros behind the end of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pages: Vec<Arc<[u8; PAGE_BYTES]>>,
    len: usize,
}

/// Number of the page that holds a sector.
pub(super) const fn page_of(sector: usize) -> usize {
    sector * SECTOR_BYTES / PAGE_BYTES
}

impl Image {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Truncates, or extends with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        let pages = len.div_ceil(PAGE_BYTES);
        if pages > self.pages.len() {
            self.pages.resize(pages, Arc::new([0; PAGE_BYTES]));
        }
        self.pages.truncate(pages);
        if len < self.len
            && let Some(last) = self.pages.last_mut()
        {
            Arc::make_mut(last)[len - (pages - 1) * PAGE_BYTES..].fill(0);
        }
        self.len = len;
    }

    /// Fills the buffer; false when the range reaches beyond the end.
    #[must_use]
    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> bool {
        if offset + buffer.len() > self.len {
            return false;
        }
        for (page, at, part) in parts(offset, buffer.len()) {
            let place = &mut buffer[part];
            place.copy_from_slice(&self.pages[page][at..at + place.len()]);
        }
        true
    }

    /// Overwrites bytes; false, and nothing is changed, when the range reaches beyond the end.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        if offset + bytes.len() > self.len {
            return false;
        }
        for (page, at, part) in parts(offset, bytes.len()) {
            let bytes = &bytes[part];
            Arc::make_mut(&mut self.pages[page])[at..at + bytes.len()].copy_from_slice(bytes);
        }
        true
    }

    /// Bytes of a sector.
    pub(super) fn sector(&self, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR_BYTES];
        let from = sector * SECTOR_BYTES;
        let held = self.len.saturating_sub(from).min(SECTOR_BYTES);
        // Never beyond the end, by the line above.
        let _ = self.read(from, &mut bytes[..held]);
        bytes
    }

    /// Overwrites a sector, as far as the file reaches.
    pub(super) fn set_sector(&mut self, sector: usize, bytes: &Sector) {
        let from = sector * SECTOR_BYTES;
        let held = self.len.saturating_sub(from).min(SECTOR_BYTES);
        self.write(from, &bytes[..held]);
    }

    /// Shares a page of an image of the same length.
    pub(super) fn share_page(&mut self, page: usize, from: &Self) {
        self.pages[page] = Arc::clone(&from.pages[page]);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        let _ = self.read(0, &mut bytes);
        bytes
    }
}

/// The pages that a range touches: number of the page, offset in it, and the part of the range.
fn parts(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
        let count = (PAGE_BYTES - at).min(len - done);
        let part = done..done + count;
        done += count;
        (count > 0).then_some((page, at, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_reads_and_writes_match_a_vector() {
        let (mut image, mut bytes) = (Image::default(), Vec::new());
        let steps = [(0, 10_000), (9_990, 300), (100, 1), (4096, 4096), (0, 0), (4000, 200)];
        for (number, (offset, len)) in steps.into_iter().enumerate() {
            let end = image.len().max(offset + len);
            image.resize(end);
            bytes.resize(end, 0);
            let written = vec![number as u8 + 1; len];
            assert!(image.write(offset, &written));
            bytes[offset..offset + len].copy_from_slice(&written);
            assert!(image.to_vec() == bytes, "step {number}");
        }
        assert!(!image.write(bytes.len(), &[1]) && !image.read(bytes.len(), &mut [0]));
        image.resize(5000);
        image.resize(6000);
        assert!(image.to_vec()[5000..] == [0; 1000], "truncated bytes do not come back");
    }

    #[test]
    fn image_clone_does_not_see_later_writes() {
        let mut image = Image::default();
        image.resize(8192);
        let copy = image.clone();
        image.write(5000, &[7]);
        assert_eq!((image.to_vec()[5000], copy.to_vec()[5000]), (7, 0));
    }
}
