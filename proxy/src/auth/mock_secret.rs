//! Mock secret: the source of the salts of roles that do not exist.
//!
//! It comes from a file that the operator names, or else from the TLS key. Read once, at the start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::config::Config;

/// Length of the secret, and of its file, in bytes.
const SECRET_BYTES: usize = 32;

/// The secret. It must last over restarts: the salt of a role that exists does not change, so the salt of a role that
/// does not exist must not change either.
#[derive(Clone)]
pub(crate) struct MockSecret(pub(crate) [u8; 32]);

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

/// Finds the secret of this server. Without a file it is derived from the TLS key, and lasts until that key is replaced.
/// Without TLS it is new at each start.
pub(crate) fn find(config: &Config) -> anyhow::Result<MockSecret> {
    if let Some(path) = &config.mock_secret_file {
        return read_or_make(path).with_context(|| format!("--mock-secret-file {}", path.display()));
    }
    let pairs = config.tls.all_pairs().context("--tls-certs-dir")?;
    let Some(files) = pairs.first() else { return Ok(random()) };
    let key = fs::read(&files.key).with_context(|| files.key.display().to_string())?;
    let mut hash = Sha256::new();
    // The hash is bound to this purpose: it reveals neither the key nor other values that are derived from it.
    hash.update(b"salts of roles that do not exist\0");
    hash.update(&key);
    Ok(MockSecret(hash.finalize().into()))
}

fn random() -> MockSecret {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    MockSecret(secret)
}

fn read_or_make(path: &Path) -> io::Result<MockSecret> {
    let secret = match fs::read(path) {
        Ok(secret) => secret,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let MockSecret(secret) = random();
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&secret)?;
            file.sync_all()?;
            secret.to_vec()
        }
        Err(error) => return Err(error),
    };
    let wrong =
        |_| io::Error::new(io::ErrorKind::InvalidData, format!("file does not have {SECRET_BYTES} bytes"));
    secret.try_into().map(MockSecret).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secret_file_is_made_once_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let made = read_or_make(&path).unwrap().0;
        assert_eq!(read_or_make(&path).unwrap().0, made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert!(read_or_make(&path).is_err());
    }
}
