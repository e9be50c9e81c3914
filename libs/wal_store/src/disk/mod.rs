//! [`Disk`]: all that the store asks of a file system.
//!
//! A disk is a handle to **one directory**, that of one timeline; names have no path in them. There are two of them:
//! [`RealDisk`], and behind the feature `model` the model disk, which forgets, tears, fills up and fails.
//!
//! What the store relies on, and nothing more: a written byte is durable after `sync_data` of its file succeeded, a
//! name after `sync_dir` succeeded; a rename is atomic; a sector of 512 bytes is written whole or not at all. A failed
//! `sync_data` says that the bytes may be lost **and** that reading may go on showing them (Rebello et al., "Can
//! Applications Recover from fsync Failures?", USENIX ATC 2020), so nobody may call it a second time and trust it.

use std::io;

#[cfg(feature = "model")]
mod image;
#[cfg(feature = "model")]
mod medium;
#[cfg(feature = "model")]
mod model;
mod real;

#[cfg(feature = "model")]
pub use model::{Fault, ModelDisk, ModelFile};
pub use real::{RealDisk, RealFile};

/// Unit that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A directory of files. Clones are handles to the same directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// A new, empty file. Fails when there is one of that name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// An existing file, to read and write.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name; a file that had it before is gone. Open files stay what they were.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Open files stay readable.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// All names of files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes every creation, rename and removal durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. Closed when dropped; nothing is written by that.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills the buffer, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of the bytes, or fails with any part of them written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes every byte that was written, and the file's length, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when there is not a byte in it.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|bytes| bytes == 0)
    }
}

/// True for the errors that go away when somebody makes room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Removes a name that may not exist.
pub(crate) fn unlink_if_there<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
    match disk.unlink(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
