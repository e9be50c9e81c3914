//! [`AckEvidence`]: the acknowledged position, from footers and control file, before WAL is scanned.
//!
//! There are three sources: the commit position in the control file, the list of files in the control file, and the
//! footers of each file. Where a source is missing, the highest position that it could have recorded is assumed: a file
//! that vanished or lost its footers may have been acknowledged up to its end.

use std::collections::BTreeSet;
use std::io;

use wal_types::{Lsn, SegmentNumber};

use crate::control_codec::Control;
use crate::disk::{Disk, DiskFile};
use crate::error::{Corruption, StoreError};
use crate::segment::{Segments, UnreadablePolicy};

/// How far a log was acknowledged, at least and at most.
#[derive(Debug)]
pub(crate) struct AckEvidence {
    /// Every segment that has a file, whatever the file holds.
    pub(crate) listed: BTreeSet<SegmentNumber>,
    /// Segments that should have a file, and have none or one of a wrong length.
    pub(crate) missing: BTreeSet<SegmentNumber>,
    /// Segments whose footers are both damaged.
    pub(crate) without_footer: BTreeSet<SegmentNumber>,
    /// Everything below was acknowledged: the highest position that a source names.
    pub(crate) acked_upto: Lsn,
    /// Nothing above was acknowledged.
    pub(crate) acked_at_most: Lsn,
    /// The first fault that was found.
    pub(crate) fault: Option<Corruption>,
}

impl AckEvidence {
    /// Reads the footers, and rewrites them. Below the segment of the commit position no footer can say more than the
    /// commit position does, so there it is enough that the files exist.
    pub(crate) fn gather<D: Disk>(segments: &Segments<D>, control: &Control) -> Result<Self, StoreError> {
        let commit_lsn = committed(control);
        let mut evidence = Self {
            listed: segments.list().map_err(StoreError::io("list the segments"))?,
            missing: BTreeSet::new(),
            without_footer: BTreeSet::new(),
            acked_upto: commit_lsn,
            acked_at_most: commit_lsn,
            fault: None,
        };

        let first = segments.number_of(control.oldest_lsn);
        let expected = first..segments.number_of(control.files_upto);
        let to_read: BTreeSet<_> = evidence.listed.range(first..).copied().chain(expected.clone()).collect();
        for segment in to_read {
            if !evidence.listed.contains(&segment) {
                evidence.add_missing(segments, segment, Corruption::MissingSegment(segment));
            } else if segment >= segments.number_of(commit_lsn) {
                evidence.read_footer(segments, control, segment, expected.contains(&segment))?;
            }
        }
        Ok(evidence)
    }

    /// Adds the position in the footer of one file, and makes that footer durable. `expected` is true for a file that
    /// the control file lists.
    fn read_footer<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        control: &Control,
        segment: SegmentNumber,
        expected: bool,
    ) -> Result<(), StoreError> {
        let file = match segments.open(segment) {
            Ok(file) => file,
            // Nothing was ever written to a file that the control file does not list.
            Err(StoreError::Corrupt(_)) if !expected => return Ok(()),
            Err(StoreError::Corrupt(fault)) => {
                self.add_missing(segments, segment, fault);
                return Ok(());
            }
            Err(error) => return Err(error),
        };

        match segments.footer(segment, &file) {
            Ok(footer) => {
                let known = control.state.term;
                if footer.term > known {
                    return Err(Corruption::TermAhead { segment, found: footer.term, known }.into());
                }
                // The footer may be in the page cache only, and the next footer goes to the other slot: if a crash tore
                // that one, no slot would be good. Writing this footer again makes it dirty, so that the sync below
                // writes it. If it was on the disk already, nothing changes there.
                segments.write_footer(&file, &footer)?;
                file.sync_data().map_err(StoreError::io("sync a footer"))?;
                self.acked_upto = self.acked_upto.max(footer.acked_upto);
                self.acked_at_most = self.acked_at_most.max(footer.acked_upto);
            }
            Err(StoreError::Unreadable { .. }) if segments.unreadable == UnreadablePolicy::TreatAsLost => {
                self.add_without_footer(segments, segment, expected);
            }
            Err(StoreError::Corrupt(_)) => self.add_without_footer(segments, segment, expected),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Adds that a scan met bytes at `at` which exist and cannot be read. No footer covers the last batch yet, so those
    /// bytes may belong to it. Only bytes that can be *read*, zeros or another record, prove that the log had ended
    /// before them.
    pub(crate) fn add_unreadable_end<D: Disk>(&mut self, segments: &Segments<D>, at: Lsn) {
        let segment = segments.number_of(at);
        if self.listed.contains(&segment) && !self.missing.contains(&segment) {
            self.assume_whole_segment(segments, segment, Corruption::CannotBeRead(at));
        }
    }

    fn add_missing<D: Disk>(&mut self, segments: &Segments<D>, segment: SegmentNumber, fault: Corruption) {
        self.missing.insert(segment);
        self.assume_whole_segment(segments, segment, fault);
    }

    fn add_without_footer<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        segment: SegmentNumber,
        expected: bool,
    ) {
        self.without_footer.insert(segment);
        if expected {
            self.assume_whole_segment(segments, segment, Corruption::Footer(segment));
        }
    }

    /// Assumes that WAL was acknowledged up to the end of the segment.
    fn assume_whole_segment<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        segment: SegmentNumber,
        fault: Corruption,
    ) {
        self.acked_at_most = self.acked_at_most.max(segments.start_of(segment + 1));
        self.fault.get_or_insert(fault);
    }
}

/// The persisted commit position; that of an empty log is its start.
pub(crate) fn committed(control: &Control) -> Lsn {
    control.state.commit_lsn.max(control.oldest_lsn)
}

/// True for an error that says that a file does not exist.
pub(crate) fn is_not_found(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
