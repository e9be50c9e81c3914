//! Log files: the logs in a directory, and the last lines of one log. Used by error messages and by failed tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The last lines of a log; empty when the file does not exist.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The files `*.log` in a directory, sorted by name.
pub fn in_directory(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    found.sort();
    found
}
