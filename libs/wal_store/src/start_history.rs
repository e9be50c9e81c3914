//! The history file of the PostgreSQL timeline that a log begins on: its text, in a file of its own beside the control file.
//!
//! A standby that follows the log from its start asks for this text, and no WAL of the log contains it. It is written once,
//! before the control file; its hash is part of the lineage. A text that is gone or damaged costs no promise and no WAL, so
//! the log is opened without it.

use std::io;
use std::sync::Arc;

use consensus::{Lineage, START_HISTORY_BYTES_MAX};
use sha2::{Digest as _, Sha256};
use wal_types::{Digest, Tli};

use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::{InvalidLineage, StoreError};

/// Name of the file.
const NAME: &str = "start_history";

/// Hash of a text.
pub(crate) fn digest_of(text: &[u8]) -> Digest {
    Digest(Sha256::digest(text).into())
}

/// Checks that a text may belong to a log with this lineage.
pub(crate) fn check(lineage: &Lineage, text: &[u8]) -> Result<(), InvalidLineage> {
    let is_possible = lineage.start_tli > Tli::FIRST && text.len() <= START_HISTORY_BYTES_MAX;
    if is_possible { Ok(()) } else { Err(InvalidLineage::StartHistory) }
}

/// Writes the text. Its name is durable with the control file, which is created next.
pub(crate) fn write<D: Disk>(disk: &D, text: &[u8]) -> Result<(), StoreError> {
    let write = || {
        // A creation that was interrupted may have left one.
        unlink_if_there(disk, NAME)?;
        let file = disk.create(NAME)?;
        file.write_at(0, text)?;
        file.sync_data()
    };
    write().map_err(StoreError::io("write the history file of the log's start"))
}

/// Reads the text that belongs to the lineage; `None` when it has none, or when the file is not as it was written.
pub(crate) fn read<D: Disk>(disk: &D, lineage: &Lineage) -> Option<Arc<[u8]>> {
    let expected = lineage.start_history?;
    match read_file(disk) {
        Ok(text) if digest_of(&text) == expected => Some(text.into()),
        Ok(_) => {
            tracing::error!(timeline = %lineage.id, "history file of the log's start is damaged, it is not served");
            None
        }
        Err(error) => {
            tracing::error!(timeline = %lineage.id, %error, "history file of the log's start cannot be read, it is not served");
            None
        }
    }
}

fn read_file<D: Disk>(disk: &D) -> io::Result<Vec<u8>> {
    let file = disk.open(NAME)?;
    let bytes = file.len()?;
    let mut text = vec![0; bytes.min(START_HISTORY_BYTES_MAX as u64) as usize];
    file.read_at(0, &mut text)?;
    Ok(text)
}
