//! The Bearer token that questions come with (RFC 6750, section 2.1), from a file that somebody else exchanges.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hyper::header::HeaderValue;

use crate::lifecycle::reload::{Source, Take};

/// The file cannot be used. What is in it is not repeated.
#[derive(Debug, thiserror::Error)]
#[error("token_file {}: {error}", path.display())]
pub(crate) struct TokenError {
    path: PathBuf,
    error: String,
}

/// The token as it was when the file was last read and good.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    current: ArcSwapOption<HeaderValue>,
}

impl TokenFile {
    pub(super) fn load(path: PathBuf) -> Result<Self, TokenError> {
        let current = ArcSwapOption::new(read(&path)?);
        Ok(Self { path, current })
    }

    /// What `Authorization` is to be.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.current.load().as_deref().cloned()
    }
}

impl Source for TokenFile {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read(&self) -> Result<Take<'_>, String> {
        let token = read(&self.path).map_err(|error| error.to_string())?;
        Ok(Box::new(|| self.current.store(token)))
    }
}

/// An empty one is not sent.
fn read(path: &Path) -> Result<Option<Arc<HeaderValue>>, TokenError> {
    let wrong = |error: String| TokenError { path: path.to_owned(), error };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| wrong("it has characters that a header cannot have".into()))?;
    value.set_sensitive(true);
    Ok(Some(Arc::new(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_exchanged_counts_when_it_is_taken_and_a_wrong_one_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(TokenFile::load(path.clone()).unwrap_err().to_string().contains("token: "));
        fs::write(&path, "first\n").unwrap();
        let token = TokenFile::load(path.clone()).unwrap();
        let header = || token.header().map(|value| value.to_str().unwrap().to_owned());
        fs::write(&path, "hunt\u{1}er2").unwrap();
        let Err(error) = token.read() else { panic!("it is taken") };
        assert!(error.contains(path.to_str().unwrap()) && !error.contains("hunt"), "{error}");
        fs::write(&path, "second").unwrap();
        let take = token.read().unwrap();
        assert_eq!(header().as_deref(), Some("Bearer first"));
        take();
        assert_eq!(header().as_deref(), Some("Bearer second"));
        fs::write(&path, " \n").unwrap();
        token.read().unwrap()();
        assert_eq!(header(), None);
    }
}
