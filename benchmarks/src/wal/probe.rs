//! Raw probes: what the disk itself gives, without a safekeeper.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

const MIB: usize = 1024 * 1024;

/// A file that was written with zeros before, as a safekeeper's segments are: a write to it changes no metadata.
#[derive(Debug)]
pub(crate) struct SyncProbe {
    file: File,
    bytes: u64,
    at: u64,
}

impl SyncProbe {
    /// Writes and syncs the file `bytes` long.
    pub(crate) fn create(path: &Path, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let zeros = vec![0; MIB];
        for at in (0..bytes).step_by(MIB) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, bytes, at: 0 })
    }

    /// Writes `bytes` behind those of the last call and syncs them. Returns the time that passed.
    pub(crate) fn write_and_sync(&mut self, bytes: &[u8]) -> Result<Duration> {
        if self.at + bytes.len() as u64 > self.bytes {
            self.at = 0;
        }
        let started = Instant::now();
        self.file.write_all_at(bytes, self.at)?;
        self.file.sync_data()?;
        let took = started.elapsed();
        self.at += bytes.len() as u64;
        Ok(took)
    }
}

/// Writes new files of `file_bytes` in pieces of `piece_bytes`, syncs each, and removes them. Returns the time that writing
/// and syncing took.
pub(crate) fn write_files(
    directory: &Path,
    files: usize,
    file_bytes: usize,
    piece_bytes: usize,
) -> Result<Duration> {
    let piece = vec![0x5a; piece_bytes];
    let paths: Vec<PathBuf> = (0..files).map(|number| directory.join(format!("probe-{number}"))).collect();
    let started = Instant::now();
    for path in &paths {
        let file = File::create(path)?;
        for at in (0..file_bytes).step_by(piece_bytes) {
            file.write_all_at(&piece, at as u64)?;
        }
        file.sync_all()?;
    }
    let took = started.elapsed();

    for path in &paths {
        std::fs::remove_file(path)?;
    }
    Ok(took)
}
