//! File length: a file that does not fit a reader's head is split at the noun that is missing.

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
            "{lines} lines are more than {FILE_LINES_MAX}: split the file at the noun that is missing"
        ),
    })
}
