//! File length: limits the lines of a file. A longer file holds more than one thing, and each gets a file and a name.

use crate::source::SourceFile;
use crate::violation::Violation;

/// Lines of a file, at most.
const FILE_LINES_MAX: usize = 450;

/// Returns a violation when the file is too long.
pub(crate) fn check(file: &SourceFile) -> Option<Violation> {
    let lines = file.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| Violation {
        path: file.path.clone(),
        line: FILE_LINES_MAX + 1,
        rule: "file_length",
        message: format!(
            "{lines} lines exceed {FILE_LINES_MAX}: move one thing that can be named to a file of its own"
        ),
    })
}
