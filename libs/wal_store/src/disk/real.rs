//! [`RealDisk`]: a directory of the operating system.
//!
//! Not here: exclusive use of the directory. The server locks its data directory before it opens a disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::handle_reserve;
use super::interface::{Disk, DiskFile};
use super::room::RoomReserve;

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    directory: Arc<Path>,
    reserve: Option<Arc<RoomReserve>>,
}

/// An open file of the operating system.
#[derive(Debug)]
pub struct RealFile(File);

impl RealDisk {
    /// Opens an existing directory, and makes its name and its ancestors' names durable. A server that was killed while it
    /// created the directory may have left names that a power failure would take away.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let disk = Self::at(directory)?;
        sync_ancestors(&disk.directory)?;
        Ok(disk)
    }

    /// Gives recoveries and truncations on a full disk files of `reserve`, which must be on the same file system.
    #[must_use]
    pub fn with_reserve(self, reserve: Arc<RoomReserve>) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// Creates `directory` with the files that `fill` writes: all of it, durably, or nothing. Removes what an earlier
    /// attempt left unfinished. Fails with `AlreadyExists` when the directory exists.
    pub fn create<E: From<io::Error>>(
        directory: &Path,
        fill: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if directory.try_exists()? {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }

        let unfinished = unfinished_name(directory)?;
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::create_dir_all(&unfinished)?;
        let disk = Self::at(&unfinished)?;
        fill(&disk)?;
        disk.sync_dir()?;
        fs::rename(&unfinished, directory)?;
        sync_ancestors(&fs::canonicalize(directory)?)?;
        Ok(())
    }

    /// True for the name of a directory that [`RealDisk::create`] left unfinished.
    pub fn is_unfinished(name: &str) -> bool {
        name.ends_with(UNFINISHED_SUFFIX)
    }

    fn at(directory: &Path) -> io::Result<Self> {
        let directory = fs::canonicalize(directory)?;
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { directory: directory.into(), reserve: None })
    }
}

/// Ending of the name of a directory that is not finished.
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// Directories whose entries `create` may have made: parent, grandparent and great-grandparent.
const ANCESTORS: usize = 3;

fn unfinished_name(directory: &Path) -> io::Result<PathBuf> {
    let mut name = directory.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(UNFINISHED_SUFFIX);
    Ok(directory.with_file_name(name))
}

fn sync_ancestors(directory: &Path) -> io::Result<()> {
    for ancestor in directory.ancestors().skip(1).take(ANCESTORS) {
        match handle_reserve::open(|| File::open(ancestor)) {
            // A directory that the server may enter but not read was not made by the server.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

impl Disk for RealDisk {
    type File = RealFile;

    fn create(&self, name: &str) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        handle_reserve::open(|| options.open(self.directory.join(name))).map(RealFile)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        handle_reserve::open(|| options.open(self.directory.join(name))).map(RealFile)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in handle_reserve::open(|| fs::read_dir(&self.directory))? {
            // The store never gives a name that is not UTF-8.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        handle_reserve::open(|| File::open(&self.directory))?.sync_all()
    }

    fn ensure_room(&self) -> io::Result<()> {
        match &self.reserve {
            Some(reserve) if reserve.lacks_room() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn set_room_aside(&self, file_bytes: u64) {
        let Some(reserve) = &self.reserve else { return };
        reserve.cover_files_of(file_bytes);
        if let Err(error) = reserve.refill() {
            tracing::warn!(%error, "room for recoveries on a full disk cannot be set aside");
        }
    }

    fn create_from_reserve(&self, name: &str, bytes: u64, leave: usize) -> io::Result<Option<RealFile>> {
        let Some(reserve) = &self.reserve else { return Ok(None) };
        Ok(reserve.take(&self.directory.join(name), bytes, leave)?.map(RealFile))
    }

    fn ensure_handles(&self) -> io::Result<()> {
        handle_reserve::ensure()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_file(disk: &RealDisk) -> io::Result<()> {
        disk.create("file")?.write_at(0, b"content")
    }

    /// A directory appears with all of its files, or not at all.
    #[test]
    fn real_disk_creates_a_directory_whole() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tenant").join("timeline");
        let failed = RealDisk::create(&directory, |disk| {
            write_file(disk)?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err() && !directory.exists());
        let left: Vec<_> = fs::read_dir(root.path().join("tenant")).unwrap().map(Result::unwrap).collect();
        assert!(left.iter().all(|entry| RealDisk::is_unfinished(&entry.file_name().to_string_lossy())));

        RealDisk::create(&directory, write_file).unwrap();
        assert_eq!(RealDisk::open(&directory).unwrap().list().unwrap(), ["file"]);
        assert_eq!(
            fs::read_dir(root.path().join("tenant")).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
        let again = RealDisk::create(&directory, write_file).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn real_disk_refuses_overwrite_and_short_read() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(root.path()).unwrap();
        write_file(&disk).unwrap();
        assert_eq!(disk.create("file").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let file = disk.open("file").unwrap();
        assert_eq!(file.read_at(4, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        disk.rename("file", "other").unwrap();
        let mut bytes = [0; 7];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!((&bytes, disk.list().unwrap()), (b"content", vec!["other".to_string()]));
    }
}
