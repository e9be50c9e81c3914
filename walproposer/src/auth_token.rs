//! Reads the token file that `--auth-token-file` names.

use std::path::Path;

use anyhow::{Context, ensure};

/// Longest token file that is read.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let length =
        std::fs::metadata(path).with_context(|| format!("--auth-token-file {}", path.display()))?.len();
    ensure!(length <= TOKEN_BYTES_MAX, "--auth-token-file {}: too long for a token", path.display());
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--auth-token-file {}", path.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "--auth-token-file {}: it is empty", path.display());
    Ok(token.to_owned())
}
