//! What has to be true before a message is decided: that there is room, and that what it wants is WAL. Found out on a
//! copy of the acceptor, which is thrown away; when there is no room, nothing has happened.

use consensus::{AppendRequest, ConnectionId, Effect, ProposerGreeting, ProposerMessage, Refusal};
use wal_format::{PageMagic, RecordScanner};
use wal_types::{Lsn, SystemId};

use super::{MessageOutcome, OpenLog};
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::scan::{PageExpectations, ScanFailure, scanner_at, scanner_at_record_end};

impl<D: Disk> OpenLog<D> {
    /// For all but appends.
    pub(super) fn prepare(
        &mut self,
        from: ConnectionId,
        message: &ProposerMessage,
    ) -> Result<MessageOutcome, StoreError> {
        let changes_much = match message {
            ProposerMessage::Greeting(_) | ProposerMessage::Elected(_) | ProposerMessage::Configure(_) => {
                true
            }
            // A vote fits wherever the one before it did.
            ProposerMessage::PreVote(_)
            | ProposerMessage::Vote(_)
            | ProposerMessage::Checksum(_)
            | ProposerMessage::Append(_) => false,
        };
        if !changes_much {
            return Ok(MessageOutcome::Done);
        }
        let effects = match self.acceptor.clone().step(from, message.clone()) {
            Ok(effects) => effects,
            Err(refusal) => return Ok(MessageOutcome::Refused(refusal)),
        };
        if let ProposerMessage::Greeting(greeting) = message
            && let Some(refusal) = self.prepare_cluster(greeting)?
        {
            return Ok(MessageOutcome::Refused(refusal));
        }
        let cut = effects.iter().find_map(|effect| match effect {
            Effect::Truncate(at) => Some(*at),
            _ => None,
        });
        if let Some(refusal) = cut.map(|at| self.prepare_truncation(at)).transpose()?.flatten() {
            return Ok(MessageOutcome::Refused(refusal));
        }
        match self.reserve(&effects, cut) {
            Ok(took_room) => {
                // What needs none says nothing about the disk.
                self.disk_full &= !took_room;
                Ok(MessageOutcome::Done)
            }
            Err(StoreError::Full { .. }) => {
                self.disk_full = true;
                Ok(MessageOutcome::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the part of an append that would be written, and makes room for it: a scanner that has seen it, nothing
    /// when there is no such part, or what is wrong.
    pub(super) fn prepare_append(
        &mut self,
        append: &AppendRequest,
    ) -> Result<Result<Option<RecordScanner>, MessageOutcome>, StoreError> {
        let (written, begin, end) = (self.acceptor.write_lsn(), append.begin_lsn, append.end_lsn());
        let goes_on = append.term == self.acceptor.state().term
            && begin <= written
            && written < end
            && append.wal.len() <= consensus::APPEND_WAL_BYTES_MAX;
        if !goes_on {
            return Ok(Ok(None));
        }
        let mut ahead = self.expected_pages().apply_to(self.scanner.clone());
        let unknown = append.wal.get(written.bytes_since(begin) as usize..).unwrap_or_default();
        if let Err(error) = ahead.feed(unknown) {
            return Ok(Err(MessageOutcome::Refused(Refusal::NotWal(error.to_string()))));
        }
        match self.writer.reserve(end, self.acceptor.state().term) {
            Ok(()) => {
                self.persist_files_upto(self.writer.files_upto())?;
                self.disk_full = false;
                Ok(Ok(Some(ahead)))
            }
            Err(StoreError::Full { .. }) => {
                self.disk_full = true;
                Ok(Err(MessageOutcome::NoRoom))
            }
            Err(error) => Err(error),
        }
    }

    /// A log whose cluster is not known yet must be of the cluster that it is about to be bound to.
    fn prepare_cluster(&mut self, greeting: &ProposerGreeting) -> Result<Option<Refusal>, StoreError> {
        let lineage = self.acceptor.lineage();
        if lineage.system_id != SystemId(0) || greeting.system_id == SystemId(0) {
            return Ok(None);
        }
        let magic = PageMagic::of_major(greeting.pg_version / 10_000).or(self.expected_pages().magic);
        let expected = PageExpectations { system_id: greeting.system_id, magic, ..self.expected_pages() };
        match scanner_at(self.writer.segments(), expected, self.acceptor.write_lsn()) {
            Ok(scanner) => self.prepared_scanner = Some(scanner),
            Err(ScanFailure::Store(error)) => return Err(error),
            Err(failure) => return Ok(Some(Refusal::NotWal(failure.to_string()))),
        }
        Ok(None)
    }

    /// A cut must be at a record end: a log that ends elsewhere would not be found again.
    fn prepare_truncation(&mut self, at: Lsn) -> Result<Option<Refusal>, StoreError> {
        match scanner_at_record_end(self.writer.segments(), self.expected_pages(), at) {
            Ok(scanner) => self.prepared_scanner = Some(scanner),
            Err(failure @ ScanFailure::NotARecordEnd { .. }) => {
                return Ok(Some(Refusal::NotWal(failure.to_string())));
            }
            Err(ScanFailure::Store(error)) => return Err(error),
            Err(ScanFailure::NotWal(_) | ScanFailure::NoSegment(_)) => {
                return Err(StoreError::DurableWalGone { below: self.writer.end() });
            }
        }
        Ok(None)
    }

    /// Of the log as it is, before what is being decided.
    fn expected_pages(&self) -> PageExpectations {
        PageExpectations::of_lineage(self.acceptor.lineage(), self.parts.highest_tli)
    }

    /// Makes room for a larger control file, when the history has outgrown it, and for the segment that a cut writes.
    /// True when something was needed.
    fn reserve(&mut self, effects: &[Effect], cut: Option<Lsn>) -> Result<bool, StoreError> {
        let mut took_room = false;
        for effect in effects {
            if let Effect::Persist(state) = effect {
                let content = Control { state: state.clone(), ..self.control.content().clone() };
                took_room |= self.control.reserve(&content)?;
            }
        }
        let Some(at) = cut else { return Ok(took_room) };
        if let Some(spare) = self.writer.spare_for_truncation(at) {
            self.persist_files_upto(self.writer.segments().start_of(spare))?;
        }
        self.writer.reserve_truncation(at, self.acceptor.state().term)?;
        Ok(true)
    }
}
