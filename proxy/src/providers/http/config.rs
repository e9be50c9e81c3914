//! Configuration of the provider `http` (TOML): URL, dialect, token, authorities, time limits. Relative paths start at
//! the directory of the file.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `url` | base URL of the calls: `http://` or `https://`, host, port, path | required |
//! | `dialect` | `"v1"` or `"2023"` | `"v1"` |
//! | `token_file` | file with the Bearer token, reloaded at SIGHUP and when it changes | no token is sent |
//! | `ca` | authorities (PEM) for `https` | required for `https` |
//! | `compute_ca` | authorities (PEM) for computes with a `server_name` | such computes are refused |
//! | `access_try_seconds`, `access_seconds` | time limits of one try and of all tries, for access rules | 5, 12 |
//! | `wake_try_seconds`, `wake_seconds` | the same for waking, cold start included | 50, 55 |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postgres_backend::TlsError;
use postgres_backend::client::ClientTls;
use serde::Deserialize;

use super::client::{Client, UrlError};
use super::dialect::Dialect;
use super::token::{TokenError, TokenFile};
use crate::config::describe_toml_error;

/// Error in the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpConfigError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("url: {0}")]
    Url(#[from] UrlError),
    #[error(transparent)]
    Authorities(#[from] TlsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("ca: required for an https url")]
    NoAuthorities,
    #[error("{0}: must be between 1 and 86400")]
    Seconds(&'static str),
}

/// Time limits of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// Limit of one try.
    pub(super) each: Duration,
    /// Limit of all tries together.
    pub(super) total: Duration,
}

/// Checked configuration.
#[derive(Debug)]
pub(super) struct HttpConfig {
    pub(super) client: Client,
    pub(super) dialect: Dialect,
    pub(super) access_limits: TimeLimits,
    pub(super) wake_limits: TimeLimits,
    /// TLS to computes that the service gives a `server_name` for.
    pub(super) compute_tls: Option<ClientTls>,
}

/// Unchecked configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    url: String,
    #[serde(default)]
    dialect: Dialect,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    compute_ca: Option<PathBuf>,
    #[serde(default = "seconds::<5>")]
    access_try_seconds: u64,
    #[serde(default = "seconds::<12>")]
    access_seconds: u64,
    #[serde(default = "seconds::<50>")]
    wake_try_seconds: u64,
    #[serde(default = "seconds::<55>")]
    wake_seconds: u64,
}

const fn seconds<const DEFAULT: u64>() -> u64 {
    DEFAULT
}

impl HttpConfig {
    /// Reads the file and the files that it names.
    pub(super) fn load(path: &Path) -> Result<Self, HttpConfigError> {
        let unreadable = |error| HttpConfigError::Io { path: path.to_owned(), error };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let config: RawConfig = toml::from_str(&text).map_err(|error| HttpConfigError::Syntax {
            path: path.to_owned(),
            message: describe_toml_error(&error, &text),
        })?;
        config.check(path.parent().unwrap_or(Path::new(".")))
    }
}

impl RawConfig {
    /// Checks the values. Relative paths start at `directory`.
    fn check(self, directory: &Path) -> Result<HttpConfig, HttpConfigError> {
        let duration = |name, seconds| match seconds {
            1..=86400 => Ok(Duration::from_secs(seconds)),
            _ => Err(HttpConfigError::Seconds(name)),
        };

        let authorities = |path: PathBuf| {
            ClientTls::verify_full(&directory.join(path), None).map_err(HttpConfigError::from)
        };
        let token = self.token_file.map(|path| TokenFile::load(directory.join(path)));
        let client =
            Client::new(&self.url, token.transpose()?.map(Arc::new), self.ca.map(authorities).transpose()?)?
                .ok_or(HttpConfigError::NoAuthorities)?;

        Ok(HttpConfig {
            client,
            dialect: self.dialect,
            access_limits: TimeLimits {
                each: duration("access_try_seconds", self.access_try_seconds)?,
                total: duration("access_seconds", self.access_seconds)?,
            },
            wake_limits: TimeLimits {
                each: duration("wake_try_seconds", self.wake_try_seconds)?,
                total: duration("wake_seconds", self.wake_seconds)?,
            },
            compute_tls: self.compute_ca.map(authorities).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<HttpConfig, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http.toml");
        fs::write(&path, text).unwrap();
        HttpConfig::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn load_requires_only_url() {
        let config = load("url = \"http://127.0.0.1:9095/proxy/api/v1\"").unwrap();
        assert_eq!(config.dialect, Dialect::V1);
        assert_eq!(config.access_limits.each, Duration::from_secs(5));
    }

    #[test]
    fn load_names_mistakes() {
        for (text, expected) in [
            ("", "missing field `url`"),
            ("url = 1", "line 1: "),
            ("url = \"http://h\"\nlimit = 1", "line 2: unknown field `limit`"),
            ("url = \"ftp://h/\"", "url: must begin with http:// or https://"),
            ("url = \"http:///x\"", "url: "),
            ("url = \"http://h/?a=b\"", "url: "),
            ("url = \"https://h/\"", "ca: required for an https url"),
            ("url = \"http://h/\"\ndialect = \"v2\"", "unknown variant `v2`"),
            ("url = \"http://h/\"\ncompute_ca = \"none.pem\"", "none.pem"),
            ("url = \"http://h/\"\ntoken_file = \"none\"", "token_file "),
            ("url = \"http://h/\"\nwake_seconds = 0", "wake_seconds: must be between 1 and 86400"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }
}
