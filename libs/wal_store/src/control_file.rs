//! [`ControlFile`]: durable storage of the acceptor's state, in two slots that are never both at risk.
//!
//! ```text
//! file `control` │ slot A: header, content, unused │ slot B: header, content, unused │
//! ```
//!
//! A change is written to A, synced, written to B, synced, and only then announced. A crash tears one slot at most, and
//! the other is whole. The slots are allocated from the beginning, so a vote needs no room on a full disk. A content that
//! has outgrown its slots gets a new file with larger ones.
//!
//! When the file is opened both slots are **written again**. After a failed sync the page cache may show a content that
//! the disk lacks. A second sync might not write it, but writing the bytes again makes them dirty, and then a sync
//! writes them. Slot A is rewritten first, and a crash meanwhile does no harm. If A was not on the disk as it was read,
//! the last change had not begun to write B, and B still has what was durable before. If A was on the disk as it was
//! read, writing the same sectors again changes nothing. Rewriting needs no room, so a node on a full disk starts, and
//! votes.

use std::io;

use wal_types::NodeId;

use crate::control_codec::Control;
use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::{Corruption, StoreError};

/// Name of the file.
const NAME: &str = "control";
/// Name of a larger file until it is finished.
const NEW: &str = "control.unfinished";
const MAGIC: [u8; 8] = *b"WALCTRL1";
/// Magic, sequence, length of the content, checksum.
const SLOT_HEADER_BYTES: usize = 24;
/// Holds a term history of the greatest length (20 000 bytes) and all members.
const SLOT_BYTES_MIN: usize = 32 * 1024;
/// More than a history of dialect `neon` ever needs. Limits how much of a damaged file the store reads.
const SLOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Slots begin at multiples of this, so a torn page damages one slot only.
const PAGE_BYTES: usize = 4096;

const _: () = assert!(
    consensus::term_history::TERM_HISTORY_ENTRIES_MAX * 20 + 8 * 1024 < SLOT_BYTES_MIN
        && SLOT_BYTES_MIN.is_multiple_of(PAGE_BYTES)
);

/// The open control file, and its durable content.
pub(crate) struct ControlFile<D: Disk> {
    disk: D,
    /// Open while the log is in use. An idle log of thousands has no descriptor.
    file: Option<D::File>,
    slot_bytes: usize,
    sequence: u64,
    content: Control,
}

impl<D: Disk> ControlFile<D> {
    /// Creates the file with its first content, after `before` has written what must be there first. Durable when it returns.
    pub(crate) fn create_with(
        disk: &D,
        content: &Control,
        before: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match disk.open(NAME) {
            Ok(_) => return Err(StoreError::Exists),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("look for a control file")(error));
            }
            Err(_) => {}
        }
        before()?;
        write_new(disk, SLOT_BYTES_MIN, 1, &content.encode()).map(drop)
    }

    /// Reads the newest whole slot and makes it durable in both.
    ///
    /// # Errors
    /// `Missing`, `OtherNode`, `Format`, `Corrupt` when both slots are damaged, and errors of the disk.
    pub(crate) fn load(disk: D, node: NodeId) -> Result<Self, StoreError> {
        let (sequence, content) = read_newest(&disk)?;
        let found = content.copy.node;
        if found != node {
            return Err(StoreError::OtherNode { expected: node, found });
        }
        let file = disk.open(NAME).map_err(StoreError::io("open the control file"))?;
        let slot_bytes =
            (file.len().map_err(StoreError::io("read the length of the control file"))? / 2) as usize;
        let mut loaded = Self { disk, file: Some(file), slot_bytes, sequence, content };
        // After a failed sync the content may be in the page cache only. Writing it again makes it dirty, so that its
        // sync counts. This needs no room: a node on a full disk must be able to vote.
        let encoded = loaded.content.encode();
        loaded.write_slots(&encoded)?;
        Ok(loaded)
    }

    /// Opens the file if it is closed: a change after a decision needs no descriptor then.
    pub(crate) fn open(&mut self) -> Result<(), StoreError> {
        if self.file.is_none() {
            self.file = Some(self.disk.open(NAME).map_err(StoreError::io("open the control file"))?);
        }
        Ok(())
    }

    /// Closes the file until the next change. Everything that was written to it is durable, so no error can be missed.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// The durable content.
    pub(crate) fn content(&self) -> &Control {
        &self.content
    }

    /// Makes room for a content; true when a larger file was needed. [`StoreError::Full`] leaves everything unchanged.
    pub(crate) fn reserve(&mut self, content: &Control) -> Result<bool, StoreError> {
        let slot_bytes = slot_bytes_for(content.encode().len());
        if slot_bytes <= self.slot_bytes {
            return Ok(false);
        }
        self.file = Some(write_new(&self.disk, slot_bytes, self.sequence, &self.content.encode())?);
        self.slot_bytes = slot_bytes;
        Ok(true)
    }

    /// Makes a content durable. After an error the content of the disk is unknown: drop this value and load the file again.
    pub(crate) fn store(&mut self, content: Control) -> Result<(), StoreError> {
        let encoded = content.encode();
        self.sequence += 1;
        if slot_bytes_for(encoded.len()) > self.slot_bytes {
            self.slot_bytes = slot_bytes_for(encoded.len());
            self.file = Some(write_new(&self.disk, self.slot_bytes, self.sequence, &encoded)?);
        } else {
            self.write_slots(&encoded)?;
        }
        self.content = content;
        Ok(())
    }

    /// Writes the first slot, then the second, each durable before the next is touched. So one of them is whole on the
    /// disk at any time. While the first is written, the second still has what was durable before. The second is begun
    /// only when the first is durable with the same content, so that writing the first again changes nothing.
    fn write_slots(&mut self, encoded: &[u8]) -> Result<(), StoreError> {
        self.open()?;
        let file = self.file.as_ref().expect("opened above");
        let slot = slot(self.sequence, encoded);
        for copy in 0..2 {
            file.write_at((copy * self.slot_bytes) as u64, &slot)
                .and_then(|()| file.sync_data())
                .map_err(StoreError::io("write the control file"))?;
        }
        Ok(())
    }
}

/// Size of the slots for a content.
fn slot_bytes_for(content_bytes: usize) -> usize {
    (SLOT_HEADER_BYTES + content_bytes).next_power_of_two().max(SLOT_BYTES_MIN)
}

/// A slot's header and content.
fn slot(sequence: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_HEADER_BYTES + content.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    let length = u32::try_from(content.len()).expect("bounded by the largest slot");
    bytes.extend_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), content);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Writes a new file with the same content in both slots, syncs it, and gives it its name.
fn write_new<D: Disk>(
    disk: &D,
    slot_bytes: usize,
    sequence: u64,
    content: &[u8],
) -> Result<D::File, StoreError> {
    if slot_bytes > SLOT_BYTES_MAX {
        return Err(StoreError::ControlTooLarge { bytes: slot_bytes, bytes_max: SLOT_BYTES_MAX });
    }
    let mut bytes = slot(sequence, content);
    bytes.resize(slot_bytes, 0);
    let write = || {
        unlink_if_there(disk, NEW)?;
        let file = disk.create(NEW)?;
        file.write_at(0, &bytes)?;
        file.write_at(slot_bytes as u64, &bytes)?;
        file.sync_data()?;
        Ok(file)
    };
    let file = write().map_err(|error| {
        // The first error is the one to report, and a file of this name is never read.
        let _ = unlink_if_there(disk, NEW);
        StoreError::io("write a new control file")(error)
    })?;
    disk.rename(NEW, NAME).map_err(StoreError::io("name a control file"))?;
    // Not `Full`, even for want of room, because that means "nothing has changed". The new file may have the name
    // already, and no recovery would find what is written to the old file from here on.
    disk.sync_dir().map_err(|source| StoreError::Io { action: "name a control file", source })?;
    Ok(file)
}

/// Sequence and content of the newest whole slot.
fn read_newest<D: Disk>(disk: &D) -> Result<(u64, Control), StoreError> {
    let file = disk.open(NAME).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing,
        _ => StoreError::io("open the control file")(error),
    })?;
    let bytes = file.len().map_err(StoreError::io("read the length of the control file"))?;
    let slot_bytes = (bytes / 2) as usize;
    let possible = (SLOT_BYTES_MIN..=SLOT_BYTES_MAX).contains(&slot_bytes)
        && slot_bytes.is_power_of_two()
        && bytes == 2 * slot_bytes as u64;
    if !possible {
        return Err(Corruption::ControlFile.into());
    }

    let mut newest: Option<(u64, Vec<u8>)> = None;
    let mut unreadable = None;
    for copy in 0..2 {
        // A slot that cannot be read counts as torn: every promise that was announced is in the other slot, too.
        let found = read_slot(&file, copy * slot_bytes as u64, slot_bytes).unwrap_or_else(|error| {
            unreadable = Some(error);
            None
        });
        newest = match (newest, found) {
            (Some(before), Some(found)) if before.0 >= found.0 => Some(before),
            (before, None) => before,
            (_, found) => found,
        };
    }
    if let Some(error) = unreadable.filter(|_| newest.is_none()) {
        return Err(StoreError::io("read the control file")(error));
    }
    let (sequence, content) = newest.ok_or(Corruption::ControlFile)?;
    Ok((sequence, Control::decode(&content)?))
}

/// Sequence and content of one slot; `None` when it is torn.
fn read_slot(file: &impl DiskFile, at: u64, slot_bytes: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut header = [0; SLOT_HEADER_BYTES];
    file.read_at(at, &mut header)?;
    let sequence = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(header[16..20].try_into().expect("four bytes")) as usize;
    let checksum = u32::from_le_bytes(header[20..24].try_into().expect("four bytes"));
    if header[..8] != MAGIC || length > slot_bytes - SLOT_HEADER_BYTES {
        return Ok(None);
    }
    let mut content = vec![0; length];
    file.read_at(at + SLOT_HEADER_BYTES as u64, &mut content)?;
    let computed = crc32c::crc32c_append(crc32c::crc32c(&header[..20]), &content);
    Ok((computed == checksum).then_some((sequence, content)))
}
