//! Disks that forget: what a safekeeper wrote and did not sync is gone after a kill -9, as after a power failure.
//!
//! `unsynced/unsynced.c` is loaded into a safekeeper and journals what each change replaces; [`forget`] undoes the
//! changes that no sync covers, once the process is dead. The page cache would hide them all otherwise. The harshest
//! loss is taken: of what is not synced, nothing is left.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clients;
use crate::env::{checkout, shared_directory};

const RECORD_HEADER_BYTES: usize = 48;

/// Where one safekeeper's journal is, and what makes its syncs lie.
#[derive(Clone, Debug)]
pub struct ForgettingDisk {
    library: PathBuf,
    root: PathBuf,
    journal: PathBuf,
    /// While this file exists, syncs do nothing and report success.
    pub lie: PathBuf,
    /// While this file exists, syncs fail.
    pub fail: PathBuf,
    sync_delay: Duration,
}

/// Builds the library, once per version of its source.
pub async fn library() -> Result<PathBuf> {
    let source = checkout().join("test_runner/unsynced/unsynced.c");
    let mut hasher = DefaultHasher::new();
    fs::read(&source)?.hash(&mut hasher);
    let directory = shared_directory(&format!("unsynced-{:016x}", hasher.finish()), async |directory| {
        let library = directory.join("libunsynced.so");
        let paths = [library.to_str().context("not UTF-8")?, source.to_str().context("not UTF-8")?];
        let arguments = ["-O1", "-shared", "-fPIC", "-o", paths[0], paths[1], "-ldl"];
        clients::run(Path::new("cc"), &arguments, &[]).await.map(drop)
    })
    .await?;
    Ok(directory.join("libunsynced.so"))
}

impl ForgettingDisk {
    /// For the program whose files lie below `root`.
    pub fn new(library: &Path, root: &Path) -> Self {
        let beside = |extension| root.with_extension(extension);
        Self {
            library: library.into(),
            root: root.into(),
            journal: beside("journal"),
            lie: beside("lie"),
            fail: beside("fail"),
            sync_delay: Duration::ZERO,
        }
    }

    /// Each sync begins so much later: there is more to lose.
    pub fn slower_by(self, sync_delay: Duration) -> Self {
        Self { sync_delay, ..self }
    }

    /// What the program needs in its environment.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        fs::create_dir_all(&self.root)?;
        fs::create_dir_all(&self.journal)?;
        let pairs = [
            ("LD_PRELOAD", &self.library),
            ("UNSYNCED_ROOT", &self.root),
            ("UNSYNCED_JOURNAL", &self.journal),
            ("UNSYNCED_LIE", &self.lie),
            ("UNSYNCED_FAIL", &self.fail),
        ];
        let text = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path is not UTF-8");
        let delay = ("UNSYNCED_DELAY".to_owned(), self.sync_delay.as_micros().to_string());
        let pairs = pairs.into_iter().map(|(name, path)| Ok((name.to_owned(), text(path)?)));
        pairs.chain([Ok(delay)]).collect()
    }

    /// Undoes what was not synced. To be called when the program is dead; returns how many changes were undone.
    pub fn forget(&self) -> Result<usize> {
        let file = self.journal.join("journal");
        let bytes =
            fs::read(&file).with_context(|| format!("no journal: was {} loaded?", self.library.display()))?;
        let lost = unsynced(parse(&bytes)?);
        let mut files = HashMap::new();
        remember_files(&self.root, &mut files)?;
        remember_files(&self.journal, &mut files)?;
        for change in lost.iter().rev() {
            self.undo(change, &files)?;
        }
        fs::remove_dir_all(&self.journal)?;
        fs::create_dir(&self.journal)?;
        Ok(lost.len())
    }

    /// Whether the program came so far that it may have changed anything since the last `forget`.
    pub fn has_begun(&self) -> bool {
        self.journal.join("journal").exists()
    }

    /// To be called instead of [`ForgettingDisk::forget`]: what was not synced stays, as after a kill on a machine
    /// that goes on. A later `forget` may still take it away.
    pub fn keep(&self) -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(self.journal.join("journal"))?;
        let bytes = fs::read(self.journal.join("journal"))?;
        // A record that the kill cut short would hide those that come behind it.
        Ok(file.set_len(whole_bytes(&bytes)? as u64)?)
    }

    fn saved(&self, number: u32) -> PathBuf {
        self.journal.join(format!("saved-{number}"))
    }

    fn undo(&self, change: &Change, files: &HashMap<u64, File>) -> Result<()> {
        let put_back = |path: &Path| match change.saved {
            0 => Ok(()),
            number => ignore_missing(fs::hard_link(self.saved(number), path)),
        };
        match change.kind {
            Kind::Write => {
                // A file that is no longer there was removed durably.
                let Some(file) = files.get(&change.inode) else { return Ok(()) };
                file.set_len(change.old_length)?;
                file.write_all_at(&change.old, change.offset)?;
            }
            Kind::Create => ignore_missing(fs::remove_file(&change.path))?,
            Kind::MakeDirectory => ignore_missing(fs::remove_dir_all(&change.path))?,
            Kind::Rename => {
                ignore_missing(fs::rename(&change.target, &change.path))?;
                put_back(&change.target)?;
            }
            Kind::Unlink => put_back(&change.path)?,
            Kind::Sync | Kind::FailedSync => {}
        }
        Ok(())
    }
}

/// The record comes before the change, so the change may not have happened.
fn ignore_missing(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error)
            if !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// Opens every file, by inode: a name may change while changes are undone.
fn remember_files(directory: &Path, files: &mut HashMap<u64, File>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            remember_files(&entry.path(), files)?;
        } else if kind.is_file() {
            let file = fs::OpenOptions::new().read(true).write(true).open(entry.path())?;
            files.insert(file.metadata()?.ino(), file);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Create,
    Rename,
    Unlink,
    MakeDirectory,
    Sync,
    FailedSync,
}

#[derive(Clone, Debug)]
struct Change {
    kind: Kind,
    /// Of the file, or of the directory whose entries change.
    inode: u64,
    offset: u64,
    old_length: u64,
    saved: u32,
    path: PathBuf,
    target: PathBuf,
    old: Vec<u8>,
}

/// The changes for which the first sync of their file or directory that followed failed, or never came.
fn unsynced(records: Vec<Change>) -> Vec<Change> {
    let mut next_sync = HashMap::new();
    let mut lost = Vec::new();
    for record in records.into_iter().rev() {
        if matches!(record.kind, Kind::Sync | Kind::FailedSync) {
            next_sync.insert(record.inode, record.kind);
        } else if next_sync.get(&record.inode) != Some(&Kind::Sync) {
            lost.push(record);
        }
    }
    lost.reverse();
    lost
}

fn parse(bytes: &[u8]) -> Result<Vec<Change>> {
    parse_whole(bytes).map(|(records, _)| records)
}

/// How many bytes belong to records that are whole.
fn whole_bytes(bytes: &[u8]) -> Result<usize> {
    parse_whole(bytes).map(|(_, rest)| bytes.len() - rest)
}

/// The records, and how many bytes are left behind the last whole one.
fn parse_whole(mut bytes: &[u8]) -> Result<(Vec<Change>, usize)> {
    let mut records = Vec::new();
    // A last record that was cut by the kill announces a change that did not happen.
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

/// The numbers of unsynced.c.
fn kind(number: u32) -> Result<Kind> {
    Ok(match number {
        1 => Kind::Write,
        2 => Kind::Create,
        3 => Kind::Rename,
        4 => Kind::Unlink,
        5 => Kind::MakeDirectory,
        6 => Kind::Sync,
        7 => Kind::FailedSync,
        _ => bail!("the journal has a record of kind {number}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script on a disk that forgets, then forgets; what is left is `name=contents` of each file.
    async fn left_by(script: &str, switch: fn(&ForgettingDisk)) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("old"), "old").unwrap();
        let disk = ForgettingDisk::new(&library().await.unwrap(), &root);
        switch(&disk);
        let environment = disk.environment().unwrap();
        let pairs: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let script =
            format!("import os\nroot = {:?}\nfail = root + '.fail'\n{script}", root.to_str().unwrap());
        clients::run(Path::new("python3"), &["-c", &script], &pairs).await.unwrap();
        disk.forget().unwrap();
        let mut left: Vec<String> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let contents = fs::read_to_string(entry.path()).unwrap_or_default();
                format!("{}={contents}", entry.file_name().to_string_lossy())
            })
            .collect();
        left.sort();
        left
    }

    fn python_is_missing() -> bool {
        let missing = std::process::Command::new("python3").arg("--version").output().is_err();
        if missing {
            eprintln!("skipped: python3 is not installed");
        }
        missing
    }

    const SYNC_DIRECTORY: &str = "d = os.open(root, os.O_RDONLY); os.fsync(d)\n";

    #[tokio::test]
    async fn only_what_was_synced_is_left() {
        if python_is_missing() {
            return;
        }
        let open = "f = os.open(root + '/old', os.O_RDWR)\n";
        let create = "f = os.open(root + '/new', os.O_RDWR | os.O_CREAT)\n";
        let rename = "os.rename(root + '/new', root + '/old')\n";
        let cases = [
            (format!("{open}os.pwrite(f, b'NEW!', 1)"), vec!["old=old"]),
            (format!("{open}os.pwrite(f, b'NEW!', 1); os.fdatasync(f)"), vec!["old=oNEW!"]),
            (format!("{open}os.write(f, b'1'); os.fsync(f); os.write(f, b'2')"), vec!["old=1ld"]),
            (format!("{open}os.ftruncate(f, 1)"), vec!["old=old"]),
            (format!("{create}os.write(f, b'x'); os.fsync(f)"), vec!["old=old"]),
            (format!("{create}os.write(f, b'x'); os.fsync(f)\n{SYNC_DIRECTORY}"), vec!["new=x", "old=old"]),
            (format!("{create}os.write(f, b'x')\n{SYNC_DIRECTORY}"), vec!["new=", "old=old"]),
            (
                format!("{create}os.write(f, b'x'); os.fsync(f)\n{SYNC_DIRECTORY}{rename}"),
                vec!["new=x", "old=old"],
            ),
            (format!("{create}os.write(f, b'x'); os.fsync(f)\n{rename}{SYNC_DIRECTORY}"), vec!["old=x"]),
            ("os.unlink(root + '/old')".into(), vec!["old=old"]),
            (format!("os.unlink(root + '/old')\n{SYNC_DIRECTORY}"), vec![]),
            ("open(root + '/old', 'w').write('overwritten')".into(), vec!["old=old"]),
            ("os.mkdir(root + '/directory')".into(), vec!["old=old"]),
        ];
        for (script, expected) in cases {
            assert_eq!(left_by(&script, |_| {}).await, expected, "{script}");
        }
    }

    #[tokio::test]
    async fn a_lying_sync_keeps_nothing() {
        if python_is_missing() {
            return;
        }
        let script = "f = os.open(root + '/old', os.O_RDWR); os.pwrite(f, b'NEW', 0); os.fsync(f)";
        let lie = |disk: &ForgettingDisk| fs::write(&disk.lie, "").unwrap();
        assert_eq!(left_by(script, lie).await, ["old=old"]);
    }

    /// Even when the next sync succeeds.
    #[tokio::test]
    async fn unsynced_disk_forgets_after_a_failed_sync() {
        if python_is_missing() {
            return;
        }
        let script = "f = os.open(root + '/old', os.O_RDWR); os.pwrite(f, b'1', 0)\n\
                      try: os.fdatasync(f)\n\
                      except OSError: os.unlink(fail)\n\
                      os.pwrite(f, b'2', 1); os.fdatasync(f)";
        let fail = |disk: &ForgettingDisk| fs::write(&disk.fail, "").unwrap();
        assert_eq!(left_by(script, fail).await, ["old=o2d"]);
    }
}
