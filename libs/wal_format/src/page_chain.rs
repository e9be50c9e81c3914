//! [`PageChain`]: checks that a page belongs where it was found, behind the pages before it.
//!
//! Part of the scanner. It knows pages only; the scanner tells it how much of a record continues over the boundary.

use wal_types::{Lsn, SegmentSize, SystemId, Tli};

use crate::page::{LongHeader, PAGE_BYTES, PageError, PageFlags, PageHeader, PageMagic};

/// Properties of the WAL of one cluster, for a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanContext {
    /// Size of the segments.
    pub segment_size: SegmentSize,
    /// System identifier of the cluster; zero accepts any.
    pub system_id: SystemId,
}

/// Limits that the pages so far set for the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageChain {
    /// Magic number of the pages so far, or required by the caller.
    magic: Option<PageMagic>,
    /// Timeline of the last page: the next is not lower.
    tli: Tli,
    /// Highest timeline that a page may have.
    tli_max: Tli,
}

impl PageChain {
    /// The chain before the first page. No cluster has a timeline below 1.
    pub(crate) const START: Self = Self { magic: None, tli: Tli::FIRST, tli_max: Tli(u32::MAX) };

    /// Timeline of the last page.
    pub(crate) fn tli(&self) -> Tli {
        self.tli
    }

    /// Refuses later pages of a timeline above `tli_max`.
    pub(crate) fn limit_timeline(self, tli_max: Tli) -> Self {
        Self { tli_max, ..self }
    }

    /// Refuses later pages with another magic number.
    pub(crate) fn require_version(self, magic: PageMagic) -> Self {
        Self { magic: Some(magic), ..self }
    }

    /// Checks and adds the page at `at`. `remaining` is the number of bytes that an open record still has; `None` if that is
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

/// Checks the fields that only the first page of a segment has.
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

/// Checks that the page continues the open record, or overwrites it.
fn check_remaining(page: &PageHeader, expected: Option<u32>) -> Result<(), PageError> {
    let PageHeader { flags, remaining_bytes: found, .. } = *page;
    let continues = flags.contains(PageFlags::FIRST_IS_CONTRECORD);
    let overwrites = flags.contains(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
    // Without an open record there is nothing to overwrite.
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
