//! Repeats: no two passages of product code are the same for more than eight lines.
//!
//! Blank lines, comments, attributes, imports and lines of punctuation alone do not count. Test code may repeat itself.

use std::collections::HashMap;
use std::path::Path;

use crate::source::{Repository, SourceFile};
use crate::violation::Violation;

/// Lines that two passages may share, at most.
const SHARED_LINES_MAX: usize = 8;

/// A line that counts: its number from 1, and its text without white space around it.
type Line<'f> = (usize, &'f str);

/// Returns a violation for each pair of passages that share more than [`SHARED_LINES_MAX`] lines, at the later one.
pub(crate) fn check(repository: &Repository) -> Vec<Violation> {
    let mut seen: HashMap<Vec<&str>, (&Path, usize)> = HashMap::new();
    let mut violations: Vec<Violation> = Vec::new();
    for file in repository.files.iter().filter(|file| file.is_product()) {
        let lines = counted_lines(file);
        let mut reported_to = 0;
        for (index, window) in lines.windows(SHARED_LINES_MAX + 1).enumerate() {
            let key: Vec<&str> = window.iter().map(|(_, text)| *text).collect();
            let line = window[0].0;
            let Some((path, first)) = seen.get(&key) else {
                seen.insert(key, (&file.path, line));
                continue;
            };
            // The windows that follow in the same passage say the same.
            if index >= reported_to {
                violations.push(violation(file, line, path, *first));
            }
            reported_to = index + SHARED_LINES_MAX + 1;
        }
    }
    violations
}

fn violation(file: &SourceFile, line: usize, path: &Path, first: usize) -> Violation {
    Violation {
        path: file.path.clone(),
        line,
        rule: "repeats",
        message: format!(
            "more than {SHARED_LINES_MAX} lines repeat {}:{first}: write them once",
            path.display()
        ),
    }
}

/// The lines of the file's product code that count. What follows `#[cfg(test)] mod` is test code.
fn counted_lines(file: &SourceFile) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut in_import = false;
    let mut after_test_attribute = false;
    for (index, line) in file.text.lines().enumerate() {
        let text = line.trim();
        if after_test_attribute && text.starts_with("mod ") && text.ends_with('{') {
            break;
        }
        after_test_attribute = text == "#[cfg(test)]";

        let starts_import = text.starts_with("use ") || text.starts_with("pub use ");
        let is_import = in_import || starts_import;
        in_import = is_import && !text.ends_with(';');
        let is_code =
            !text.starts_with("//") && !text.starts_with('#') && text.chars().any(char::is_alphanumeric);
        if is_code && !is_import {
            lines.push((index + 1, text));
        }
    }
    lines
}
