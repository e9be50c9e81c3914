//! [`AskedSafekeeper`]: which safekeepers were asked, and why one of them gave no usable answer.

use serde::Serialize;

use crate::http::AskError;

/// A safekeeper that was asked, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct AskedSafekeeper {
    pub(crate) id: u64,
    pub(crate) http: String,
    /// Why it gave no usable answer.
    pub(crate) error: Option<String>,
}

impl AskedSafekeeper {
    /// A safekeeper with its answer.
    pub(crate) fn new<T>(id: u64, http: String, answer: &Result<T, AskError>) -> Self {
        Self { id, http, error: answer.as_ref().err().map(ToString::to_string) }
    }

    /// What needs attention when it gave no usable answer. `fails_to` says what it did not do: "does not answer".
    pub(crate) fn attention(&self, fails_to: &str) -> Option<String> {
        let error = self.error.as_ref()?;
        Some(format!("safekeeper {} at {} {fails_to}: {error}", self.id, self.http))
    }
}
