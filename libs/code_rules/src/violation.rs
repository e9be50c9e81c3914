//! Violation: where a rule is broken, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// One place that breaks a rule. Orders by path, then by line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the root of the repository.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The name of the rule: the name of its file in `rules/`.
    pub rule: &'static str,
    /// What is wrong and how to mend it, in one sentence.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path.display(), self.line, self.rule, self.message)
    }
}
