//! The traits [`Disk`] and [`DiskFile`]. What the store relies on is stated in [`crate::disk`].

use std::io;

use thiserror::Error;

/// Unit that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A directory of files. Clones are handles to the same directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Creates an empty file. Fails with `AlreadyExists` when the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing. Fails with `NotFound` when there is none.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name, atomically. A file that had that name is removed. Open files stay open.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Open files stay readable.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes every creation, rename and removal durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Fails as a full disk does while the room that is left is to be set aside for recoveries. Asked before a log grows.
    fn ensure_room(&self) -> io::Result<()> {
        Ok(())
    }
    /// Sets room aside for recoveries on a full disk, in files of this length, as far as there is any. Called after each
    /// recovery, which leaves as much room as it took.
    fn set_room_aside(&self, _file_bytes: u64) {}
    /// Creates a file of this length, replacing one of this name, from room that was set aside for recoveries and truncations
    /// on a full disk. Its content is arbitrary. `None` when there would be less than `leave` such files left.
    fn create_from_reserve(&self, _name: &str, _bytes: u64, _leave: usize) -> io::Result<Option<Self::File>> {
        Ok(None)
    }
    /// Makes sure that a few files can be opened, whatever else the process opens meanwhile. Asked before a decision: what
    /// was decided cannot be put off. Fails with [`OutOfHandles`] when that cannot be promised.
    fn ensure_handles(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Payload of the error of an open that failed because the process or the system has too many open files, or the kernel no
/// memory for one more. The file itself is as it was.
#[derive(Debug, Error)]
#[error("{0}; raise the limit of open files (ulimit -n, LimitNOFILE=)")]
pub struct OutOfHandles(#[source] pub io::Error);

impl OutOfHandles {
    /// The error as an error of IO.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// An open file. Closed when dropped; nothing is written by that.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills the buffer. Fails with `UnexpectedEof` beyond the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes. After an error any part of them may be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all written bytes, and the length of the file, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|bytes| bytes == 0)
    }
}

/// True for errors of a full disk or an exhausted quota: they end when there is room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// True when no file could be opened because too many are open: it ends when some are closed.
pub(crate) fn is_out_of_handles(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OutOfHandles>())
}

/// Removes a file that may not exist.
pub(crate) fn unlink_if_there<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
    match disk.unlink(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
