//! Execution of the acceptor's effects: replies, control file, truncation, checksums.
//!
//! Writes are not here: only an append may write ([`OpenLog::handle_message`]).

use consensus::{AcceptorMessage, ChecksumResponse, Effect};
use wal_types::Lsn;

use super::{EffectSink, OpenLog, SnapshotParts};
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::{Misuse, StoreError};

impl<D: Disk> OpenLog<D> {
    /// Carries effects out in the order in which the acceptor gave them: another order would lose data.
    pub(super) fn execute(
        &mut self,
        effects: Vec<Effect>,
        sink: &mut impl EffectSink,
    ) -> Result<(), StoreError> {
        for effect in effects {
            match effect {
                Effect::Reply { to, message } => sink.reply(to, message),
                Effect::Persist(state) => {
                    self.control.store(Control { state, ..self.control.content().clone() })?;
                    self.parts = SnapshotParts::of(&self.acceptor);
                }
                Effect::PersistLineage(lineage) => {
                    self.writer.set_lineage(lineage.clone());
                    self.scanner = self.prepared_scanner.take().unwrap_or_else(|| self.scanner.clone());
                    self.control.store(Control { lineage, ..self.control.content().clone() })?;
                    self.parts = SnapshotParts::of(&self.acceptor);
                }
                Effect::Truncate(at) => self.truncate(at, sink)?,
                Effect::Write { at, .. } => return Err(Misuse::WriteWithoutAppend { at }.into()),
                Effect::Checksum { reply_to, from, to } => {
                    let crc32c = Some(self.writer.segments().checksum(from, to)?);
                    let message = AcceptorMessage::Checksum(ChecksumResponse { from, to, crc32c });
                    sink.reply(reply_to, message);
                }
            }
        }
        Ok(())
    }

    /// Drops the log above `at`. Readers are told before the first file changes and after the last one.
    fn truncate(&mut self, at: Lsn, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let scanner = self.prepared_scanner.take().filter(|scanner| scanner.position() == at);
        let scanner = scanner.ok_or(Misuse::TruncationNotPrepared { at })?;

        self.truncations += 1;
        sink.publish(self.snapshot());
        self.persist_files_upto(self.writer.segments().files_upto(at))?;
        self.writer.truncate(at, self.acceptor.state().term)?;
        self.scanner = scanner;

        // A reader that opened a file in between may hold the old one.
        self.truncations += 1;
        sink.publish(self.snapshot());
        Ok(())
    }
}
