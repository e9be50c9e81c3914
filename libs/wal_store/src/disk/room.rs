//! [`RoomReserve`]: blank files that recoveries and truncations on a full disk are given.
//!
//! After a crash a log whose last batch no footer covers is written to a new file before it counts, and a truncation writes a
//! new file as well. A timeline that waits for room for that neither votes nor serves. All copies of a log fill up together,
//! so after a restart of all of them nobody would vote. Therefore some room of the disk is set aside. Whoever takes a file
//! replaces another one by it, whose room the next [`RoomReserve::refill`] sets aside again. Until then no log gets a new
//! segment, because that would take the room.
//!
//! | file | content |
//! |---|---|
//! | `reserve/0` … `reserve/3` | as long as the largest segment file of any timeline; allocated, never read |
//! | `reserve/unfinished` | what a crash interrupted |
//!
//! A file system that copies on write (Btrfs, ZFS) may need other room for the same file; there the reserve is weaker.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::handle_reserve;
use super::interface::is_full;

/// Files of the reserve. As many recoveries run at once.
const FILES: usize = 4;
/// Largest part of the disk that is set aside, in percent; at least one file.
const DISK_SHARE_PERCENT_MAX: u64 = 10;
/// Bytes that are written at once where blocks cannot be allocated.
const WRITE_BYTES: usize = 256 * 1024;
const DIRECTORY: &str = "reserve";
const UNFINISHED: &str = "unfinished";

/// Room of one data directory that is set aside. Shared by all of its timelines.
#[derive(Debug)]
pub struct RoomReserve {
    data_dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Length of each file, in bytes; 0 before the first timeline is known.
    file_bytes: u64,
    /// Files that should be there.
    wanted: usize,
    /// Files that are there in full length.
    present: usize,
    /// The last refill found too little room, or a file was taken since.
    lacks_room: bool,
}

impl RoomReserve {
    /// The reserve of a data directory. Touches nothing.
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), state: Mutex::default() }
    }

    /// Makes the files at least this long, from the next [`RoomReserve::refill`] on.
    pub(super) fn cover_files_of(&self, file_bytes: u64) {
        let mut state = self.state.lock();
        if file_bytes > state.file_bytes {
            *state = State { file_bytes, wanted: FILES, present: 0, lacks_room: state.lacks_room };
        }
    }

    /// Number of files that are there, and of those that should be.
    pub fn present_and_wanted(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.present, state.wanted)
    }

    /// True while new segments have to leave the room that is left to the reserve.
    pub(super) fn lacks_room(&self) -> bool {
        self.state.lock().lacks_room
    }

    /// Sets room aside for the files that are missing, as far as there is any. Blocks. Costs nothing while all are there.
    ///
    /// # Errors
    /// Of the disk, unless it is full.
    pub fn refill(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let is_whole = state.present == state.wanted && !state.lacks_room;
        if is_whole || state.file_bytes == 0 {
            return Ok(());
        }

        let disk = statvfs(&self.data_dir)?;
        let share = disk.f_blocks.saturating_mul(disk.f_frsize) / 100 * DISK_SHARE_PERCENT_MAX;
        state.wanted = usize::try_from(share / state.file_bytes).unwrap_or(FILES).clamp(1, FILES);
        fs::create_dir_all(self.directory())?;
        let unfinished = self.directory().join(UNFINISHED);
        for path in (0..state.wanted).map(|number| self.file(number)) {
            if length_of(&path)?.is_some_and(|bytes| bytes >= state.file_bytes) {
                continue;
            }
            if let Err(error) = allocate(&unfinished, state.file_bytes) {
                // Nothing reads the file, and the first error is the one to report.
                let _ = fs::remove_file(&unfinished);
                state.present = self.count(state.file_bytes)?;
                state.lacks_room = is_full(&error);
                return if is_full(&error) { Ok(()) } else { Err(error) };
            }
            fs::rename(&unfinished, path)?;
        }
        File::open(self.directory())?.sync_all()?;
        (state.present, state.lacks_room) = (state.wanted, false);
        Ok(())
    }

    /// Moves a file of the reserve to `path`, with this length, and opens it. `None` when no more than `leave` are there. Its
    /// content is whatever the file system shows.
    pub(super) fn take(&self, path: &Path, bytes: u64, leave: usize) -> io::Result<Option<File>> {
        let mut state = self.state.lock();
        let mut found = Vec::new();
        for file in (0..FILES).map(|number| self.file(number)) {
            // Before the first timeline is open the length that is wanted is not known.
            if length_of(&file)?.is_some_and(|length| length >= bytes) {
                found.push(file);
            }
        }
        let Some(taken) = found.pop().filter(|_| found.len() >= leave) else { return Ok(None) };

        let file = handle_reserve::open(|| OpenOptions::new().read(true).write(true).open(&taken))?;
        fs::rename(taken, path)?;
        file.set_len(bytes)?;
        state.present = state.present.saturating_sub(1);
        state.lacks_room = true;
        tracing::warn!(path = %path.display(), left = found.len(), "disk is full, a file of the reserve was taken");
        Ok(Some(file))
    }

    fn directory(&self) -> PathBuf {
        self.data_dir.join(DIRECTORY)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.directory().join(number.to_string())
    }

    /// Files of this length that are there.
    fn count(&self, file_bytes: u64) -> io::Result<usize> {
        let mut count = 0;
        for number in 0..FILES {
            count += usize::from(length_of(&self.file(number))?.is_some_and(|bytes| bytes >= file_bytes));
        }
        Ok(count)
    }
}

/// Length of a file, if it is there.
fn length_of(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file with room for `bytes` of its own. Durable but for its name.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let zeros = vec![0; WRITE_BYTES];
            let mut left = bytes;
            while left > 0 {
                let part = left.min(WRITE_BYTES as u64);
                file.write_all(&zeros[..part as usize])?;
                left -= part;
            }
        }
        allocated => allocated?,
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 12_288;

    #[test]
    fn reserve_is_taken_and_refilled() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let reserve = RoomReserve::new(directory.path());
        reserve.refill().unwrap();
        assert!(!at(DIRECTORY).exists(), "no timeline needs it yet");
        assert!(reserve.take(&at("a"), 1, 0).unwrap().is_none());

        reserve.cover_files_of(FILE_BYTES);
        assert_eq!(reserve.present_and_wanted(), (0, FILES));
        reserve.refill().unwrap();
        assert_eq!((reserve.present_and_wanted(), reserve.lacks_room()), ((FILES, FILES), false));
        assert!(reserve.take(&at("a"), FILE_BYTES + 1, 0).unwrap().is_none(), "too short");
        for left in (1..FILES).rev() {
            let file = reserve.take(&at("a"), FILE_BYTES, 1).unwrap().unwrap();
            assert_eq!((file.metadata().unwrap().len(), reserve.present_and_wanted().0), (FILE_BYTES, left));
            assert!(reserve.lacks_room(), "new segments wait");
        }
        assert!(reserve.take(&at("a"), FILE_BYTES, 1).unwrap().is_none(), "one is left for others");

        // After a restart the files are there before a timeline is known.
        let reserve = RoomReserve::new(directory.path());
        assert_eq!(reserve.take(&at("b"), 4096, 0).unwrap().unwrap().metadata().unwrap().len(), 4096);
        // Larger segments need larger files.
        reserve.cover_files_of(2 * FILE_BYTES);
        reserve.refill().unwrap();
        assert_eq!((reserve.present_and_wanted(), reserve.lacks_room()), ((FILES, FILES), false));
        assert!(reserve.take(&at("c"), 2 * FILE_BYTES, 0).unwrap().is_some());
    }
}
