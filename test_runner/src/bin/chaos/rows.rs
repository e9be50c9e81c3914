//! [`RowLog`]: file of acknowledged rows, one per line. A row counts when its line is synced.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::{Context, Result};
use test_runner::workload::Rows;

/// The file, and the counter of the thread that writes it.
#[derive(Debug)]
pub(crate) struct RowLog {
    path: PathBuf,
    synced: Arc<AtomicU64>,
}

impl RowLog {
    /// Opens the file and starts a thread that appends the rows from the returned sender.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Sender<(i32, i64)>)> {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        // An earlier run may have ended inside a line.
        file.write_all(b"\n")?;
        let synced = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel();
        let count = synced.clone();
        std::thread::spawn(move || write(&file, &receiver, &count));
        Ok((Self { path, synced }, sender))
    }

    /// Number of rows that were sent and synced since the file was opened.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::SeqCst)
    }

    /// All rows of the file.
    pub(crate) fn read(&self) -> Result<Rows> {
        read(&self.path)
    }
}

/// Appends and syncs rows until all senders are dropped. It also ends when the disk fails: then no more rows count, and
/// [`RowLog::synced`] stands still, which the run detects.
fn write(mut file: &File, receiver: &Receiver<(i32, i64)>, synced: &AtomicU64) {
    while let Ok(first) = receiver.recv() {
        let rows: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let lines: String = rows.iter().map(|(client, sequence)| format!("{client} {sequence}.\n")).collect();
        if file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).is_err() {
            return;
        }
        synced.fetch_add(rows.len() as u64, Ordering::SeqCst);
    }
}

fn read(path: &Path) -> Result<Rows> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // A line without its full stop was cut short.
    let row = |line: &str| {
        let (client, sequence) = line.strip_suffix('.')?.split_once(' ')?;
        Some((client.parse().ok()?, sequence.parse().ok()?))
    };
    Ok(text.lines().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_without_a_partial_line() {
        let path = tempfile::tempdir().unwrap().keep().join("rows");
        for row in [(1, 10), (2, 20)] {
            let (log, sender) = RowLog::open(path.clone()).unwrap();
            sender.send(row).unwrap();
            while log.synced() < 1 {
                std::thread::yield_now();
            }
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"3 3").unwrap();
        }
        assert_eq!(read(&path).unwrap(), Rows::from([(1, 10), (2, 20)]));
    }
}
