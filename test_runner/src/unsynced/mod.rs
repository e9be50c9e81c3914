//! Forgetting disks: writes of a safekeeper that it did not sync are lost after a kill -9, as after a power failure.
//!
//! `unsynced/unsynced.c` is loaded into a safekeeper and journals the bytes that each change replaces. Once the process
//! is dead, [`ForgettingDisk::lose_unsynced`] undoes the changes that no sync covers; without it the page cache would
//! keep them all. The loss is the harshest possible: no unsynced change is left.

mod journal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use self::journal::{Change, ChangeKind, parse, unsynced, whole_bytes};
use crate::clients;
use crate::env::{checkout, shared_directory};

/// The disk of one safekeeper: its journal, and switch files that make its syncs lie or fail.
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

/// Builds the preload library, once per version of its source. Returns its path.
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
    /// The disk of the program whose files lie below `root`. Journal and switch files lie beside `root`.
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

    /// Delays each sync, so that a kill finds more unsynced data.
    pub fn slower_by(self, sync_delay: Duration) -> Self {
        Self { sync_delay, ..self }
    }

    /// Environment variables that load the library into the program.
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

    /// Undoes all unsynced changes and returns their number. To be called when the program is dead.
    pub fn lose_unsynced(&self) -> Result<usize> {
        let file = self.journal.join("journal");
        let bytes =
            fs::read(&file).with_context(|| format!("no journal: was {} loaded?", self.library.display()))?;
        let lost = unsynced(parse(&bytes)?);
        let mut files = HashMap::new();
        open_files_by_inode(&self.root, &mut files)?;
        open_files_by_inode(&self.journal, &mut files)?;
        for change in lost.iter().rev() {
            self.undo(change, &files)?;
        }
        fs::remove_dir_all(&self.journal)?;
        fs::create_dir(&self.journal)?;
        Ok(lost.len())
    }

    /// True when the program has opened its journal, so it may have changed files since the last loss.
    pub fn has_journal(&self) -> bool {
        self.journal.join("journal").exists()
    }

    /// Keeps unsynced changes, as after a kill on a machine that runs on. To be called instead of
    /// [`ForgettingDisk::lose_unsynced`], which may still undo them later.
    pub fn keep_unsynced(&self) -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(self.journal.join("journal"))?;
        let bytes = fs::read(self.journal.join("journal"))?;
        // A record that the kill cut short would hide later records.
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
            ChangeKind::Write => {
                // A file that no longer exists was removed durably.
                let Some(file) = files.get(&change.inode) else { return Ok(()) };
                file.set_len(change.old_length)?;
                file.write_all_at(&change.old, change.offset)?;
            }
            ChangeKind::Create => ignore_missing(fs::remove_file(&change.path))?,
            ChangeKind::MakeDirectory => ignore_missing(fs::remove_dir_all(&change.path))?,
            ChangeKind::Rename => {
                ignore_missing(fs::rename(&change.target, &change.path))?;
                put_back(&change.target)?;
            }
            ChangeKind::Unlink => put_back(&change.path)?,
            ChangeKind::Sync | ChangeKind::FailedSync => {}
        }
        Ok(())
    }
}

/// Accepts missing and existing files: a record is written before its change, so the change may not have happened.
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

/// Opens every file and keeps it by inode, because names may change while changes are undone.
fn open_files_by_inode(directory: &Path, files: &mut HashMap<u64, File>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_files_by_inode(&entry.path(), files)?;
        } else if kind.is_file() {
            let file = fs::OpenOptions::new().read(true).write(true).open(entry.path())?;
            files.insert(file.metadata()?.ino(), file);
        }
    }
    Ok(())
}
