//! Reads the file that `--auth-token-file` names: the token that safekeepers and the HTTP port require.

use std::path::Path;

use anyhow::{Context, ensure};

/// Longest token file that is read.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// The token in the file, without surrounding white space.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let length =
        std::fs::metadata(path).with_context(|| format!("--auth-token-file {}", path.display()))?.len();
    ensure!(
        length <= TOKEN_BYTES_MAX,
        "--auth-token-file {}: longer than {TOKEN_BYTES_MAX} bytes",
        path.display()
    );
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--auth-token-file {}", path.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "--auth-token-file {}: the file is empty", path.display());
    Ok(token.to_owned())
}
