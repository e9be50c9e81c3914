//! [`WireRecord`]: a ledger and the WAL bytes that a safekeeper was sent, in two files, so that a run can be resumed.
//!
//! The sparse file `NAME.bytes` holds at each WAL position the byte that was sent last. Both files are written before a
//! message is passed on. A kill of this program leaves them whole. After a restart of the machine they cannot be
//! trusted, and [`WireRecord::start`] makes new ones.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use wal_types::{Lsn, Term};

use super::Ledger;

/// Size of the ledger file: one page, so that no kill leaves half of a ledger.
const LEDGER_BYTES: usize = 4096;

/// A ledger and the WAL bytes of one safekeeper, with their files.
#[derive(Debug)]
pub struct WireRecord {
    ledger: Ledger,
    ledger_file: File,
    bytes_file: File,
}

impl WireRecord {
    /// Makes an empty record and its files.
    pub fn start(directory: &Path, name: &str) -> Result<Self> {
        let file = |extension| {
            let path = directory.join(format!("{name}.{extension}"));
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(true).open(&path);
            opened.with_context(|| format!("cannot write {}", path.display()))
        };
        let mut this =
            Self { ledger: Ledger::default(), ledger_file: file("ledger")?, bytes_file: file("bytes")? };
        this.change(|_| {})?;
        Ok(this)
    }

    /// Opens the record of an earlier run.
    pub fn resume(directory: &Path, name: &str) -> Result<Self> {
        let file = |extension| {
            let path = directory.join(format!("{name}.{extension}"));
            let opened = OpenOptions::new().read(true).write(true).open(&path);
            opened.with_context(|| format!("cannot open {}", path.display()))
        };
        let (mut ledger_file, bytes_file) = (file("ledger")?, file("bytes")?);
        let mut text = String::new();
        ledger_file.read_to_string(&mut text)?;
        let ledger = serde_json::from_str(&text).with_context(|| format!("{name}.ledger is damaged"))?;
        Ok(Self { ledger, ledger_file, bytes_file })
    }

    /// The acknowledged positions.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Changes the ledger and writes it to its file.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Ledger) -> T) -> Result<T> {
        let done = change(&mut self.ledger);
        let mut page = serde_json::to_vec(&self.ledger)?;
        ensure!(page.len() <= LEDGER_BYTES, "ledger of {} bytes exceeds one page", page.len());
        page.resize(LEDGER_BYTES, b' ');
        self.ledger_file.write_all_at(&page, 0)?;
        Ok(done)
    }

    /// Records WAL that was sent in `term` from `begin` on.
    pub fn append(&mut self, term: Term, begin: Lsn, wal: &[u8]) -> Result<()> {
        if wal.is_empty() {
            return Ok(());
        }
        let end = begin.advance(wal.len() as u64);
        if self.change(|ledger| ledger.record_append(term, end))? {
            self.bytes_file.write_all_at(wal, begin.0)?;
        }
        Ok(())
    }

    /// Compares bytes from `from` on with the sent ones. Returns the first position that differs.
    pub fn difference(&self, from: Lsn, bytes: &[u8]) -> Result<Option<Lsn>> {
        let mut sent = vec![0; bytes.len()];
        self.bytes_file.read_exact_at(&mut sent, from.0)?;
        let at = sent.iter().zip(bytes).position(|(one, other)| one != other);
        Ok(at.map(|at| from.advance(at as u64)))
    }

    /// Makes both files durable.
    pub fn sync(&self) -> Result<()> {
        self.bytes_file.sync_data()?;
        Ok(self.ledger_file.sync_data()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PositionReply;

    #[test]
    fn record_finds_the_first_differing_byte() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = WireRecord::start(directory.path(), "sk1").unwrap();
        record.change(|ledger| ledger.record_truncation(Term(1), Lsn(100))).unwrap();
        record.append(Term(1), Lsn(100), b"abcdef").unwrap();
        record.append(Term(0), Lsn(100), b"ABCDEF").unwrap();
        let reply = PositionReply { term: Term(1), flush: Lsn(106), commit: Lsn(0), is_append_reply: true };
        record.change(|ledger| ledger.record_reply(reply)).unwrap();

        let again = WireRecord::resume(directory.path(), "sk1").unwrap();
        assert_eq!(again.ledger(), record.ledger());
        assert_eq!(again.difference(Lsn(100), b"abcdef").unwrap(), None);
        assert_eq!(again.difference(Lsn(102), b"cdEF").unwrap(), Some(Lsn(104)));
    }
}
