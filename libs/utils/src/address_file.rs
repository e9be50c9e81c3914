//! Address file: tells the process that started a server where the server listens.
//!
//! A server started on port 0 learns its ports only when it has bound them, and then writes this file. The content is
//! the caller's, usually one JSON object. Waiting for the file and reading it is not done here. Called by `main` of
//! every server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Permission bits of the file: every user may read an address, only the owner may change it.
pub const ADDRESS_FILE_MODE: u32 = 0o644;

/// Writes `content` to `path` in one step: a reader sees no file, the previous file, or all of `content`.
///
/// The bytes go to a new file in the same directory, which is then renamed to `path`. Nothing is synced: after a power
/// failure the process does not listen either. Errors are those of the file system, and [`io::ErrorKind::InvalidInput`]
/// for a path without a file name.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error of the write is the one to report; that of the removal adds nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(ADDRESS_FILE_MODE).open(path)?;
    // The umask narrows the mode given to `open`, and a reader of another user must not depend on it.
    file.set_permissions(fs::Permissions::from_mode(ADDRESS_FILE_MODE))?;
    file.write_all(content)
}

/// A name beside `path` that no other writer uses, even when several threads or processes write at once.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "address file path has no file name"));
    };
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.{}.tmp", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// No temporary file is left over.
    #[test]
    fn write_sets_content_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("address.json");
        write(&path, b"{\"pg\":\"127.0.0.1:1\"}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"pg\":\"127.0.0.1:1\"}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, ADDRESS_FILE_MODE);
        assert_eq!(names_in(directory.path()), ["address.json"]);
    }

    #[test]
    fn write_replaces_the_file_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("address.json");
        write(&path, b"a much longer first content").unwrap();
        let mut reader = fs::File::open(&path).unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        // A reader that had opened the first file still reads all of it: the file was replaced, not overwritten.
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "a much longer first content");
    }

    #[test]
    fn reader_never_sees_half_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("address.json");
        let contents: Vec<Vec<u8>> = (0..8_u8).map(|byte| vec![byte; 64 * 1024]).collect();
        write(&path, &contents[0]).unwrap();
        std::thread::scope(|scope| {
            for content in &contents {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write(path, content).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert_eq!(seen.len(), 64 * 1024);
                        assert!(seen.iter().all(|byte| *byte == seen[0]));
                    }
                });
            }
        });
        assert_eq!(names_in(directory.path()), ["address.json"]);
    }

    #[test]
    fn failed_write_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        write(&path, b"x").unwrap_err();
        assert_eq!(names_in(directory.path()), ["taken"]);
        assert_eq!(write(Path::new("/"), b"x").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
