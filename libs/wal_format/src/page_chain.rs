//! [`PageChain`]: does a page belong where it was found, behind the pages before it?
//!
//! Half of the scanner; it knows pages only, the scanner says what record goes on over the boundary.

use wal_types::{Lsn, SegmentSize, SystemId, Tli};

use crate::page::{LongHeader, PAGE_BYTES, PageError, PageFlags, PageHeader, PageMagic};

/// What the WAL of one cluster has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanContext {
    /// How the WAL is cut into files.
    pub segment_size: SegmentSize,
    /// The cluster; zero to take any.
    pub system_id: SystemId,
}

/// What the pages so far say about the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageChain {
    /// Of the pages so far, or known from elsewhere.
    magic: Option<PageMagic>,
    tli: Tli,
    /// No page is of a higher timeline.
    tli_max: Tli,
}

impl PageChain {
    /// Before the first page. No cluster has a timeline lower than the first one.
    pub(crate) const START: Self = Self { magic: None, tli: Tli::FIRST, tli_max: Tli(u32::MAX) };

    /// Timeline of the last page.
    pub(crate) fn tli(&self) -> Tli {
        self.tli
    }

    /// The same pages, followed by none of a timeline above `tli_max`.
    pub(crate) fn limit_timeline(self, tli_max: Tli) -> Self {
        Self { tli_max, ..self }
    }

    /// The same pages, followed only by such that begin with `magic`.
    pub(crate) fn require_version(self, magic: PageMagic) -> Self {
        Self { magic: Some(magic), ..self }
    }

    /// Takes the page at `at`. `remaining` is what is still to come of a record that began before, `None` if that is
    /// not known.
    pub(crate) fn extend(
        &mut self,
        ctx: &ScanContext,
        at: Lsn,
        page: &PageHeader,
        remaining: Option<u32>,
    ) -> Result<(), PageError> {
        if page.address != at {
            return Err(PageError::Address(page.address));
        }
        match (page.long, ctx.segment_size.offset_of(at) == 0) {
            (None, false) => {}
            (Some(long), true) => check_long_header(ctx, &long)?,
            _ => return Err(PageError::HeaderLength),
        }
        if let Some(before) = self.magic.filter(|before| *before != page.magic) {
            return Err(PageError::MagicChanged { before, found: page.magic });
        }
        if page.tli < self.tli {
            return Err(PageError::TimelineDecreased { before: self.tli, found: page.tli });
        }
        if page.tli > self.tli_max {
            return Err(PageError::TimelineAbove { highest: self.tli_max, found: page.tli });
        }
        check_remaining(page, remaining)?;
        *self = Self { magic: Some(page.magic), tli: page.tli, ..*self };
        Ok(())
    }
}

fn check_long_header(ctx: &ScanContext, long: &LongHeader) -> Result<(), PageError> {
    let (expected, found) = (ctx.system_id, long.system_id);
    if expected != SystemId(0) && expected != found {
        return Err(PageError::SystemId { expected, found });
    }
    let (expected, found) = (ctx.segment_size, long.segment_bytes);
    if expected.bytes() != found {
        return Err(PageError::SegmentSize { expected, found });
    }
    if long.page_bytes as usize != PAGE_BYTES {
        return Err(PageError::PageSize(long.page_bytes));
    }
    Ok(())
}

fn check_remaining(page: &PageHeader, expected: Option<u32>) -> Result<(), PageError> {
    let PageHeader { flags, remaining_bytes: found, .. } = *page;
    let continues = flags.contains(PageFlags::FIRST_IS_CONTRECORD);
    let overwrites = flags.contains(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
    // Where nothing was begun, there is nothing to overwrite.
    if continues != (found > 0) || overwrites && (continues || expected == Some(0)) {
        return Err(PageError::Contradiction { flags, remaining_bytes: found });
    }
    match expected {
        Some(expected) if !overwrites && found != expected => {
            Err(PageError::RemainingBytes { expected, found })
        }
        _ => Ok(()),
    }
}
