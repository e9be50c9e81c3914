//! File head: every file opens with `//!` and says what it is.

use crate::source::SourceFile;
use crate::violation::Violation;

/// Returns a violation when the file has no inner documentation.
pub(crate) fn check(file: &SourceFile) -> Option<Violation> {
    let has_head = file.syntax.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
    (!has_head).then(|| Violation {
        path: file.path.clone(),
        line: 1,
        rule: "file_head",
        message: "the file has no `//!` head: say in its first line what it is and what it does".to_owned(),
    })
}
