//! Journal of `unsynced.c`: decodes its records and selects the changes that no sync covers.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// Header of a record: `struct record` in `unsynced.c`.
const RECORD_HEADER_BYTES: usize = 48;

/// Kind of a record; `unsynced.c` has the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Write,
    Create,
    Rename,
    Unlink,
    MakeDirectory,
    Sync,
    FailedSync,
}

/// One record: a change with the bytes or the file that it replaced, or a sync.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) kind: ChangeKind,
    /// Inode of the file, or of the directory whose entries change.
    pub(super) inode: u64,
    pub(super) offset: u64,
    pub(super) old_length: u64,
    pub(super) saved: u32,
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
    pub(super) old: Vec<u8>,
}

/// Selects the changes that no successful sync covers: the next sync of their file or directory failed or never came.
pub(super) fn unsynced(records: Vec<Change>) -> Vec<Change> {
    let mut next_sync = HashMap::new();
    let mut lost = Vec::new();
    for record in records.into_iter().rev() {
        if matches!(record.kind, ChangeKind::Sync | ChangeKind::FailedSync) {
            next_sync.insert(record.inode, record.kind);
        } else if next_sync.get(&record.inode) != Some(&ChangeKind::Sync) {
            lost.push(record);
        }
    }
    lost.reverse();
    lost
}

/// Decodes the whole records of a journal.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Change>> {
    parse_whole(bytes).map(|(records, _)| records)
}

/// Length of the whole records in bytes.
pub(super) fn whole_bytes(bytes: &[u8]) -> Result<usize> {
    parse_whole(bytes).map(|(_, rest)| bytes.len() - rest)
}

/// Decodes the whole records. Returns them and the number of bytes behind the last one.
fn parse_whole(mut bytes: &[u8]) -> Result<(Vec<Change>, usize)> {
    let mut records = Vec::new();
    // A last record that the kill cut short announces a change that did not happen.
    while let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER_BYTES) {
        let word = |at: usize| header[at..at + 4].try_into().map(u32::from_ne_bytes);
        let long = |at: usize| header[at..at + 8].try_into().map(u64::from_ne_bytes);
        let lengths = [word(8)? as usize, word(12)? as usize, usize::try_from(long(40)?)?];
        let Some((path, rest)) = rest.split_at_checked(lengths[0]) else { break };
        let Some((target, rest)) = rest.split_at_checked(lengths[1]) else { break };
        let Some((old, rest)) = rest.split_at_checked(lengths[2]) else { break };
        bytes = rest;
        records.push(Change {
            kind: kind(word(0)?)?,
            saved: word(4)?,
            inode: long(16)?,
            offset: long(24)?,
            old_length: long(32)?,
            path: std::str::from_utf8(path)?.into(),
            target: std::str::from_utf8(target)?.into(),
            old: old.to_vec(),
        });
    }
    Ok((records, bytes.len()))
}

/// The kind with this number in `unsynced.c`.
fn kind(number: u32) -> Result<ChangeKind> {
    Ok(match number {
        1 => ChangeKind::Write,
        2 => ChangeKind::Create,
        3 => ChangeKind::Rename,
        4 => ChangeKind::Unlink,
        5 => ChangeKind::MakeDirectory,
        6 => ChangeKind::Sync,
        7 => ChangeKind::FailedSync,
        _ => bail!("the journal has a record of kind {number}"),
    })
}
