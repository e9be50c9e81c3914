//! Token file: the Bearer token (RFC 6750, section 2.1) of requests to the control plane. Other programs may replace
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hyper::header::HeaderValue;

use crate::lifecycle::reload::{Apply, Source};

/// Error in the token file. Does not repeat its content.
#[derive(Debug, thiserror::Error)]
#[error("token_file {}: {error}", path.display())]
pub(crate) struct TokenError {
    path: PathBuf,
    error: String,
}

/// Token file with its last good token.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    current: ArcSwapOption<HeaderValue>,
}

impl TokenFile {
    /// Reads the file.
    pub(super) fn load(path: PathBuf) -> Result<Self, TokenError> {
        let current = ArcSwapOption::new(read(&path)?);
        Ok(Self { path, current })
    }

    /// Value of the header `Authorization`. `None` when the file is empty.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.current.load().as_deref().cloned()
    }
}

impl Source for TokenFile {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        let token = read(&self.path).map_err(|error| error.to_string())?;
        Ok(Box::new(|| self.current.store(token)))
    }
}

/// Returns `None` for an empty file.
fn read(path: &Path) -> Result<Option<Arc<HeaderValue>>, TokenError> {
    let wrong = |error: String| TokenError { path: path.to_owned(), error };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value =
        value.map_err(|_| wrong("token has characters that are not allowed in a header".into()))?;
    value.set_sensitive(true);
    Ok(Some(Arc::new(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_reload_is_explicit_and_refuses_malformed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(TokenFile::load(path.clone()).unwrap_err().to_string().contains("token: "));
        fs::write(&path, "first\n").unwrap();
        let token = TokenFile::load(path.clone()).unwrap();
        let header = || token.header().map(|value| value.to_str().unwrap().to_owned());
        fs::write(&path, "hunt\u{1}er2").unwrap();
        let Err(error) = token.read() else { panic!("malformed token was accepted") };
        assert!(error.contains(path.to_str().unwrap()) && !error.contains("hunt"), "{error}");
        fs::write(&path, "second").unwrap();
        let apply = token.read().unwrap();
        assert_eq!(header().as_deref(), Some("Bearer first"));
        apply();
        assert_eq!(header().as_deref(), Some("Bearer second"));
        fs::write(&path, " \n").unwrap();
        token.read().unwrap()();
        assert_eq!(header(), None);
    }
}
