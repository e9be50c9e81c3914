//! Limits that can be changed while the proxy runs: what the file says stands in place of the flags of the same names. It
//! is read at the start and at SIGHUP; when it is wrong nothing changes. Called by `server`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use utils::Shutdown;

use crate::metrics::{How, Metrics};
use crate::rate_limit::{Connections, ConnectionsMax};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct LimitsFile {
    path: PathBuf,
    /// Those of the flags.
    otherwise: ConnectionsMax,
}

/// What the file has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    max_connections: Option<usize>,
    max_connections_per_ip: Option<usize>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub(crate) struct LimitsFileError {
    path: PathBuf,
    error: String,
}

impl LimitsFile {
    pub(crate) fn new(path: PathBuf, otherwise: ConnectionsMax) -> Self {
        Self { path, otherwise }
    }

    /// What counts now.
    pub(crate) fn read(&self) -> Result<ConnectionsMax, LimitsFileError> {
        let wrong = |error: String| LimitsFileError { path: self.path.clone(), error };
        let text = fs::read_to_string(&self.path).map_err(|error| wrong(error.to_string()))?;
        let content: Content = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(ConnectionsMax {
            total: content.max_connections.unwrap_or(self.otherwise.total),
            per_source: content.max_connections_per_ip.unwrap_or(self.otherwise.per_source),
        })
    }

    /// Reads it again at each SIGHUP.
    pub(crate) async fn keep_current(
        self: Arc<Self>,
        connections: Arc<Connections>,
        shutdown: Shutdown,
        metrics: Metrics,
    ) {
        let mut asked_for = shutdown.reloads();
        loop {
            asked_for.next().await;
            let file = Arc::clone(&self);
            let Ok(read) = tokio::task::spawn_blocking(move || file.read()).await else { continue };
            let how = match read {
                Ok(max) => {
                    connections.set_max(max);
                    tracing::info!(?max, "limits were read again");
                    "reloaded"
                }
                Err(error) => {
                    tracing::error!(%error, "the limits cannot be used: what was read before stays");
                    "failed"
                }
            };
            metrics.limits_reloads.get_or_create(&How { how }).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_does_not_have_is_as_in_the_flags_and_a_wrong_one_is_refused_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.toml");
        let file = LimitsFile::new(path.clone(), ConnectionsMax { total: 7, per_source: 3 });
        file.read().unwrap_err();
        for (content, expected) in [
            ("", Some((7, 3))),
            ("max_connections = 9", Some((9, 3))),
            ("max_connections = 0\nmax_connections_per_ip = 1", Some((0, 1))),
            ("max_connections = 9\nmax_conections_per_ip = 1", None),
            ("max_connections = -1", None),
            ("max_connections", None),
        ] {
            fs::write(&path, content).unwrap();
            let read = file.read().map(|max| (max.total, max.per_source));
            assert_eq!(read.as_ref().ok(), expected.as_ref(), "{content}: {read:?}");
        }
    }
}
