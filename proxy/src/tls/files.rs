//! Certificate files: finds the pairs that flags name and the pairs in a directory. Read at the start and on every reload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::certificates::CertificateError;
use crate::config::{TlsFiles, TlsSources};

/// File names in a sub-directory, as Kubernetes writes them.
const CERTIFICATE_NAME: &str = "tls.crt";
const KEY_NAME: &str = "tls.key";
/// Endings of a pair in the directory itself.
const CERTIFICATE_ENDING: &str = "crt";
const KEY_ENDING: &str = "key";
/// The entry of the directory that is for unknown names; otherwise it is the first in alphabetical order.
const DEFAULT_ENTRY: &str = "default";

impl TlsSources {
    /// All pairs, the one for unknown names first.
    pub(crate) fn all_pairs(&self) -> Result<Vec<TlsFiles>, CertificateError> {
        let mut pairs = self.pairs.clone();
        if let Some(path) = &self.directory {
            let error = |error| CertificateError::Directory { path: path.clone(), error };
            let found = pairs_in(path).map_err(error)?;
            if found.is_empty() {
                return Err(CertificateError::EmptyDirectory(path.clone()));
            }
            pairs.extend(found);
        }
        Ok(pairs)
    }

    /// All files that a reload depends on. Empty when the directory cannot be read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let pairs = self.all_pairs().unwrap_or_default();
        let files = pairs.into_iter().flat_map(|pair| [pair.certificate, pair.key]);
        files.chain(self.client_authority.clone()).collect()
    }
}

fn pairs_in(directory: &Path) -> io::Result<Vec<TlsFiles>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Tools that replace a whole directory atomically keep the real files under hidden names.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let pair = if path.is_dir() {
            TlsFiles { certificate: path.join(CERTIFICATE_NAME), key: path.join(KEY_NAME) }
        } else if path.extension().is_some_and(|ending| ending == CERTIFICATE_ENDING) {
            TlsFiles { key: path.with_extension(KEY_ENDING), certificate: path.clone() }
        } else {
            continue;
        };
        if !is_hidden && pair.certificate.exists() && pair.key.exists() {
            found.push((path.file_stem().is_none_or(|name| name != DEFAULT_ENTRY), pair));
        }
    }
    found.sort_by(|one, other| (one.0, &one.1.certificate).cmp(&(other.0, &other.1.certificate)));
    Ok(found.into_iter().map(|(_, pair)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_in_both_forms_default_first() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for name in [
            "b/tls.crt",
            "b/tls.key",
            "a.crt",
            "a.key",
            "default/tls.crt",
            "default/tls.key",
            "no_key.crt",
            "c/tls.crt",
            "..data/tls.crt",
            "..data/tls.key",
            "readme.txt",
        ] {
            write(name);
        }
        let sources = TlsSources { directory: Some(directory.path().to_owned()), ..TlsSources::default() };
        let found = sources.all_pairs().unwrap();
        let found: Vec<_> =
            found.iter().map(|pair| pair.certificate.strip_prefix(directory.path()).unwrap()).collect();
        assert_eq!(found, [Path::new("default/tls.crt"), Path::new("a.crt"), Path::new("b/tls.crt")]);

        let before = sources.files();
        assert_eq!(before.len(), 6);
        write("c/tls.key");
        assert_eq!(sources.files().len(), 8);
    }

    #[test]
    fn a_directory_without_certificates_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &Path| TlsSources { directory: Some(path.to_owned()), ..TlsSources::default() };
        let error = |path: &Path| at(path).all_pairs().unwrap_err();
        assert!(matches!(error(directory.path()), CertificateError::EmptyDirectory(_)));
        assert!(matches!(error(Path::new("/nonexistent")), CertificateError::Directory { .. }));
    }
}
