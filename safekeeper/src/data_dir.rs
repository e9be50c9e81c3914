//! [`DataDir`]: whose directory this is, and that nobody else works in it.
//!
//! | file | content |
//! |---|---|
//! | `safekeeper.lock` | empty; locked (flock) while a safekeeper runs |
//! | `safekeeper.id` | format version, number of the safekeeper, random id of the disk, checksum; text, for people |
//! | `<tenant>/<timeline>/` | one timeline, `wal_store`'s |
//! | `<tenant>/<timeline>.promised` | empty; says that there was one, should its directory vanish |
//!
//! The random id tells a wiped disk from the one of before: a safekeeper that comes back empty under its old number
//! must not vote as if it remembered. Nothing is written into a directory that is not a safekeeper's own, and nothing
//! is repaired here: what does not fit is one clear sentence. Called by `main` and by tests.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use wal_types::NodeId;

const LOCK_FILE: &str = "safekeeper.lock";
const ID_FILE: &str = "safekeeper.id";
const ID_FILE_TEMPORARY: &str = "safekeeper.id.tmp";

/// Version of the layout of the directory that this program reads and writes.
pub(crate) const DATA_DIR_FORMAT: u32 = 1;

/// WAL holds all of the database, so it is for the safekeeper's user only.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Longest id file in bytes: more is not ours.
const ID_FILE_BYTES_MAX: u64 = 4096;

/// The directory of a running safekeeper. Locked until this and every [`DataDirLock`] of it are dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    lock: DataDirLock,
}

/// For who works in the directory: as long as it lives, nobody else can open it.
#[derive(Clone, Debug)]
pub(crate) struct DataDirLock(
    #[expect(dead_code, reason = "the lock goes when the file is closed")] Arc<File>,
);

/// What the id file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Number of the safekeeper.
    pub node: NodeId,
    /// Drawn when the directory was made.
    pub disk: [u8; 16],
}

/// Why a directory cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Something cannot be read, made or locked.
    #[error("data directory {path}: cannot {action}: {error}", path = path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
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
    /// The directory is another safekeeper's.
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
    /// The directory was made by another version of this program.
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
    /// The id file is half-written or damaged.
    #[error(
        "{path}/{ID_FILE} is damaged: {reason}; restore it from a copy, or take this safekeeper out of the cluster and start it with an empty --data-dir",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

impl DataDir {
    /// Locks the directory of safekeeper `node`, which is made when there is none or when it is empty.
    pub fn open(path: &Path, node: NodeId) -> Result<Self, DataDirError> {
        let failed = |action| move |error| DataDirError::Io { path: path.to_owned(), action, error };
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(failed("make it"))?;
        let known = path.join(ID_FILE).try_exists().map_err(failed("read it"))?;
        if !known && !is_unused(path).map_err(failed("read it"))? {
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
            TryLockError::Error(error) => failed("lock it")(error),
        })?;
        // Whether the file is there counts under the lock: another process may just have made it.
        let identity = match read_bounded(&path.join(ID_FILE)) {
            Ok(bytes) => parse(path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path, node).map_err(failed("write its id file"))?
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock(&self) -> DataDirLock {
        self.lock.clone()
    }

    /// What the id file says.
    pub const fn identity(&self) -> Identity {
        self.identity
    }
}

/// True when nothing of value can be in the directory: what a start that was killed early leaves, and what a new file
/// system has.
fn is_unused(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let ours = [LOCK_FILE, ID_FILE_TEMPORARY, "lost+found"].iter().any(|known| name == *known);
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(ID_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whole or not at all, and on disk before anything else is: new file, fsync, rename, fsync of the directory.
fn create(path: &Path, node: NodeId) -> io::Result<Identity> {
    let mut disk = [0; 16];
    getrandom::fill(&mut disk).map_err(io::Error::from)?;
    let identity = Identity { node, disk };
    let temporary = path.join(ID_FILE_TEMPORARY);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
    file.write_all(render(identity).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path.join(ID_FILE))?;
    File::open(path)?.sync_all()?;
    Ok(identity)
}

fn render(identity: Identity) -> String {
    let disk: String = identity.disk.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = format!("format {DATA_DIR_FORMAT}\nnode {}\ndisk {disk}\n", identity.node);
    format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Identity, DataDirError> {
    let damaged = |reason| DataDirError::Damaged { path: path.to_owned(), reason };
    let text = str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    // The first line first: a later format may say everything else in another way.
    let format = text.lines().next().and_then(|line| line.strip_prefix("format ")?.parse().ok());
    match format.ok_or_else(|| damaged("it does not begin with a format"))? {
        DATA_DIR_FORMAT => {}
        found => return Err(DataDirError::OtherFormat { path: path.to_owned(), found }),
    }
    let (body, sum) = text.split_once("crc32c ").ok_or_else(|| damaged("it has no checksum"))?;
    if sum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum is wrong"));
    }
    let field = |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let node = field("node").and_then(|node| node.parse().ok()).ok_or_else(|| damaged("it names no node"))?;
    let disk = field("disk").and_then(parse_disk).ok_or_else(|| damaged("it names no disk"))?;
    Ok(Identity { node: NodeId(node), disk })
}

fn parse_disk(text: &str) -> Option<[u8; 16]> {
    // The same form as every other identifier of 16 bytes.
    text.parse::<wal_types::TimelineId>().ok().map(|id| id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, node: u64) -> Result<DataDir, String> {
        DataDir::open(path, NodeId(node)).map_err(|error| error.to_string())
    }

    fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read(file).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_new_directory_keeps_its_number_and_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let first = open(&path, 3).unwrap().identity();
        assert_eq!(first.node, NodeId(3));
        assert_eq!(open(&path, 3).unwrap().identity(), first);
        let other = open(&root.path().join("c"), 3).unwrap().identity();
        assert_ne!(other.disk, first.disk);
    }

    #[test]
    fn a_second_process_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path(), 1).unwrap();
        let error = open(root.path(), 1).unwrap_err();
        assert!(error.contains("in use by another running safekeeper"), "{error}");
        drop(first);
        open(root.path(), 1).unwrap();
    }

    #[test]
    fn a_start_that_was_killed_before_the_id_was_whole_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(ID_FILE_TEMPORARY), "format 1\nno").unwrap();
        fs::write(root.path().join(LOCK_FILE), "").unwrap();
        assert_eq!(open(root.path(), 5).unwrap().identity().node, NodeId(5));
    }

    #[test]
    fn what_does_not_fit_is_said_in_one_sentence_and_left_alone() {
        let good = render(Identity { node: NodeId(1), disk: [7; 16] });
        for (content, part) in [
            (good.replace("node 1", "node 2").as_str(), "its checksum is wrong"),
            (&good[..good.len() - 1], "its checksum is wrong"),
            (&good[..20], "it has no checksum"),
            ("", "it does not begin with a format"),
            ("format 2\nwhatever", "has format 2, this safekeeper reads format 1"),
            (render(Identity { node: NodeId(2), disk: [7; 16] }).as_str(), "belongs to safekeeper 2, not 1"),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join(ID_FILE), content).unwrap();
            fs::write(root.path().join(LOCK_FILE), "").unwrap();
            let before = files(root.path());
            let error = open(root.path(), 1).unwrap_err();
            assert!(error.contains(part), "{content:?}: {error}");
            assert_eq!(files(root.path()), before);
        }
    }

    #[test]
    fn a_directory_of_something_else_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), "x").unwrap();
        let error = open(root.path(), 1).unwrap_err();
        assert!(error.contains("not a safekeeper's data directory"), "{error}");
        assert_eq!(files(root.path()).len(), 1);
    }
}
