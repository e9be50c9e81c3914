//! [`DataDir`]: the data directory of one safekeeper, locked against other processes.
//!
//! | file | content |
//! |---|---|
//! | `safekeeper.lock` | empty; locked (flock) while a safekeeper runs |
//! | `safekeeper.id` | format version, number of the safekeeper, random id of the disk, checksum; readable text |
//! | `reserve/` | room for recoveries on a full disk, see [`wal_store::RoomReserve`] |
//! | `<tenant>/<timeline>/` | one timeline, written by `wal_store` |
//! | `<tenant>/<timeline>.promised` | empty; records that the timeline exists, in case its directory disappears |
//!
//! The random id tells a wiped disk from the one before: a safekeeper that comes back empty under its old number must not
//! vote as if it remembered its promises. Nothing is repaired here: a directory that does not belong to this safekeeper, or is
//! damaged, is left untouched and reported as an error. Called by `main` and by tests.

mod id_file;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use wal_types::NodeId;

use id_file::{DATA_DIR_FORMAT, FILE_MODE, ID_FILE, ID_FILE_TEMPORARY, IdFileError};

pub use id_file::Identity;

const LOCK_FILE: &str = "safekeeper.lock";

/// WAL holds all of the database, so the directory is for the safekeeper's user only.
const DIRECTORY_MODE: u32 = 0o700;

/// The directory of a running safekeeper. Locked until this and every `DataDirLock` of it are dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    lock: DataDirLock,
}

/// A share of the lock: no other process can open the directory while one exists. Each shard holds one.
#[derive(Clone, Debug)]
pub(crate) struct DataDirLock(
    #[expect(dead_code, reason = "the lock goes when the file is closed")] Arc<File>,
);

/// Why a directory cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The directory or a file in it cannot be read, created or locked.
    #[error("data directory {path}: cannot {action}: {error}", path = path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The action that failed.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Another process has the lock.
    #[error("data directory {path} is in use by another running safekeeper", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error(
        "{path} is not empty and not a safekeeper's data directory (it has no {ID_FILE}); choose another --data-dir",
        path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another safekeeper.
    #[error(
        "data directory {path} belongs to safekeeper {found}, not {expected}; start it with --id {found} or choose another --data-dir",
        path = path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The number on the command line.
        expected: NodeId,
        /// The number in the file.
        found: NodeId,
    },
    /// The directory was written by another version of this program.
    #[error(
        "data directory {path} has format {found}, this safekeeper reads format {DATA_DIR_FORMAT}; start the version that wrote it",
        path = path.display()
    )]
    OtherFormat {
        /// The directory.
        path: PathBuf,
        /// The format in the file.
        found: u32,
    },
    /// The id file is incomplete or damaged.
    #[error(
        "{path}/{ID_FILE} is damaged: {reason}; restore this file from a copy, or replace this safekeeper by one with another --id and an empty --data-dir",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// The damage.
        reason: &'static str,
    },
}

impl DataDir {
    /// Locks the directory of safekeeper `node`. Creates its id file when the directory does not exist or is empty.
    pub fn open(path: &Path, node: NodeId) -> Result<Self, DataDirError> {
        let failed = |action| move |error| DataDirError::Io { path: path.to_owned(), action, error };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(failed("create the directory"))?;
        let has_id = path.join(ID_FILE).try_exists().map_err(failed("read the directory"))?;
        if !has_id && !is_unused(path).map_err(failed("read the directory"))? {
            return Err(DataDirError::Foreign { path: path.to_owned() });
        }

        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path.join(LOCK_FILE))
            .map_err(failed("open its lock file"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::Locked { path: path.to_owned() },
            TryLockError::Error(error) => failed("lock the directory")(error),
        })?;

        // The check that counts is the one under the lock: another process may just have created the file.
        let identity = match id_file::read(path) {
            Ok(bytes) => id_file::parse(&bytes).map_err(|error| DataDirError::new(path, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                id_file::create(path, node).map_err(failed("write its id file"))?
            }
            Err(error) => return Err(failed("read its id file")(error)),
        };
        if identity.node != node {
            return Err(DataDirError::OtherNode {
                path: path.to_owned(),
                expected: node,
                found: identity.node,
            });
        }
        Ok(Self { path: path.to_owned(), identity, lock: DataDirLock(Arc::new(lock)) })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another share of the lock.
    pub(crate) fn lock(&self) -> DataDirLock {
        self.lock.clone()
    }

    /// The content of the id file.
    pub const fn identity(&self) -> Identity {
        self.identity
    }
}

impl DataDirError {
    fn new(path: &Path, error: IdFileError) -> Self {
        let path = path.to_owned();
        match error {
            IdFileError::OtherFormat(found) => Self::OtherFormat { path, found },
            IdFileError::Damaged(reason) => Self::Damaged { path, reason },
        }
    }
}

/// True when nothing of value can be in the directory: it is empty, a new file system, or what a start left that was
/// killed early.
fn is_unused(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let harmless = [LOCK_FILE, ID_FILE_TEMPORARY, "lost+found"].iter().any(|known| name == *known);
        if !harmless {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
