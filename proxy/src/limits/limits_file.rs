//! Limits file: limits that can change while the proxy runs. A value of the file replaces the flag of the same name.
//!
//! `server` reads it at the start and on reload. An invalid file changes nothing.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::config::{Config, RateOptions, describe_toml_error};
use crate::lifecycle::reload::{Apply, Source};
use crate::limits::connections::{Connections, ConnectionsMax};
use crate::limits::rate_limit::Limit;
use crate::route::EndpointName;

/// The file, and the limits that it sets.
#[derive(Debug)]
pub(crate) struct LimitsFile {
    path: PathBuf,
    /// The limits of the flags, for what the file does not name.
    otherwise: Limits,
    limited: Limited,
}

/// All limits that can change while the proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: ConnectionsMax,
    /// New connections from one network.
    pub(crate) arrivals: RateOptions,
    /// Logins to one endpoint.
    pub(crate) logins: RateOptions,
    /// Wakes of one endpoint.
    pub(crate) wakes: RateOptions,
}

/// The parts of the proxy that apply the limits.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) connections: Arc<Connections>,
    pub(crate) logins: Arc<Limit<EndpointName>>,
    pub(crate) wakes: Arc<Limit<EndpointName>>,
}

/// The content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    max_connections: Option<usize>,
    max_connections_per_ip: Option<usize>,
    network_limit: Option<String>,
    endpoint_limit: Option<String>,
    wake_limit: Option<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub(crate) struct LimitsFileError {
    path: PathBuf,
    error: String,
}

impl LimitsFile {
    pub(crate) fn new(path: PathBuf, otherwise: Limits, limited: Limited) -> Self {
        Self { path, otherwise, limited }
    }

    fn limits(&self) -> Result<Limits, LimitsFileError> {
        let wrong = |error: String| LimitsFileError { path: self.path.clone(), error };
        let text = fs::read_to_string(&self.path).map_err(|error| wrong(error.to_string()))?;
        let content: Content =
            toml::from_str(&text).map_err(|error| wrong(describe_toml_error(&error, &text)))?;
        content.check(&self.otherwise).map_err(wrong)
    }
}

impl Source for LimitsFile {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        let limits = self.limits().map_err(|error| error.to_string())?;
        Ok(Box::new(move || self.limited.set(&limits)))
    }
}

impl Limits {
    /// The limits that apply without a file.
    pub(crate) fn of_flags(config: &Config) -> Self {
        let (total, per_source) = (config.connections_max, config.connections_per_source_max);
        Self {
            connections: ConnectionsMax { total, per_source },
            arrivals: config.login_limits.per_network,
            logins: config.login_limits.per_endpoint,
            wakes: config.caches.wakes,
        }
    }
}

impl Limited {
    /// Applies all limits. None of these calls can fail, so no reload applies half of a file.
    fn set(&self, limits: &Limits) {
        self.connections.set_max(limits.connections);
        self.connections.set_arrivals(limits.arrivals);
        self.logins.set(limits.logins);
        self.wakes.set(limits.wakes);
    }
}

impl Content {
    /// Checks the content. A missing value is taken from `otherwise`.
    fn check(self, otherwise: &Limits) -> Result<Limits, String> {
        let rate = |key: &str, text: Option<String>, otherwise: RateOptions| match text {
            Some(text) => text.parse().map_err(|error| format!("{key} = \"{text}\": {error}")),
            None => Ok(otherwise),
        };
        Ok(Limits {
            connections: ConnectionsMax {
                total: self.max_connections.unwrap_or(otherwise.connections.total),
                per_source: self.max_connections_per_ip.unwrap_or(otherwise.connections.per_source),
            },
            arrivals: rate("network_limit", self.network_limit, otherwise.arrivals)?,
            logins: rate("endpoint_limit", self.endpoint_limit, otherwise.logins)?,
            wakes: rate("wake_limit", self.wake_limit, otherwise.wakes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: [&str; 3] = ["rate=0.001,burst=3", "rate=0.001,burst=4", "rate=0.001,burst=5"];

    struct Scene {
        file: LimitsFile,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let [arrivals, logins, wakes] = RATES.map(|rate| rate.parse().unwrap());
            let connections = ConnectionsMax { total: 7, per_source: 3 };
            let flags = Limits { connections, arrivals, logins, wakes };
            let limited = Limited {
                connections: Arc::new(Connections::new(ConnectionsMax::default()).with_arrivals(arrivals)),
                logins: Arc::new(Limit::new(logins, 10)),
                wakes: Arc::new(Limit::new(wakes, 10)),
            };
            let file = LimitsFile::new(directory.path().join("limits.toml"), flags, limited);
            Self { file, _directory: directory }
        }

        fn reload(&self, content: &str) -> Result<Limits, String> {
            fs::write(&self.file.path, content).unwrap();
            self.file.read()?();
            self.file.limits().map_err(|error| error.error)
        }

        /// How many arrivals, logins and wakes are let through at once.
        fn at_once(&self) -> [usize; 3] {
            let Limited { connections, logins, wakes } = &self.file.limited;
            let (main, address) = ("main".parse().unwrap(), "192.0.2.1".parse().unwrap());
            let arrives = || connections.enter().is_ok_and(|mut one| one.set_source(address).is_ok());
            let count = |next: &dyn Fn() -> bool| (0..100).filter(|_| next()).count();
            [
                count(&arrives),
                count(&|| logins.try_acquire(&main).is_ok()),
                count(&|| wakes.try_acquire(&main).is_ok()),
            ]
        }
    }

    #[test]
    fn limits_file_falls_back_to_flags() {
        let scene = Scene::new();
        assert!(scene.file.read().is_err());
        let [three, four, five] = RATES;
        for (content, max, rates) in [
            ("", (7, 3), RATES),
            ("max_connections = 9", (9, 3), RATES),
            ("max_connections = 0\nmax_connections_per_ip = 1", (0, 1), RATES),
            ("network_limit = \"off\"", (7, 3), ["off", four, five]),
            ("endpoint_limit = \"rate=2,burst=9\"", (7, 3), [three, "rate=2,burst=9", five]),
            ("wake_limit = \"burst=9,rate=2\"", (7, 3), [three, four, "rate=2,burst=9"]),
        ] {
            let read = scene.reload(content).unwrap();
            let [arrivals, logins, wakes] = rates.map(|rate| rate.parse().unwrap());
            let connections = ConnectionsMax { total: max.0, per_source: max.1 };
            assert_eq!(read, Limits { connections, arrivals, logins, wakes }, "{content}");
        }
    }

    #[test]
    fn invalid_limits_file_changes_nothing() {
        let scene = Scene::new();
        scene.reload("max_connections = 50").unwrap();
        assert_eq!(scene.at_once(), [3, 4, 5]);
        let right = "max_connections = 1\nmax_connections_per_ip = 1\nnetwork_limit = \"off\"\n";
        for (wrong, expected) in [
            ("max_conections = 1", "unknown field `max_conections`"),
            ("endpoint_limit = \"off\"\nwake_limit = \"rate=1\"", "wake_limit = \"rate=1\": missing key"),
            ("wake_limit = \"off\"\nendpoint_limit = \"rate=0,burst=1\"", "endpoint_limit = \"rate=0,burst"),
            ("wake_limit = \"off\"\nendpoint_limit = 5", "expected a string"),
            ("wake_limit = \"\"", "wake_limit = \"\": missing key"),
            ("wake_limit = -1", "expected a string"),
            ("wake_limit", "line 4"),
        ] {
            let error = scene.reload(&format!("{right}{wrong}")).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
            // The rates are used up. A limit that was set anew would admit some.
            assert_eq!(scene.at_once(), [0, 0, 0], "{wrong}");
            let all: Vec<_> = (0..60).filter_map(|_| scene.file.limited.connections.enter().ok()).collect();
            assert_eq!(all.len(), 50, "{wrong}");
        }
    }

    #[test]
    fn changed_rate_starts_anew_unchanged_keeps_its_count() {
        let scene = Scene::new();
        scene.reload("").unwrap();
        assert_eq!(scene.at_once(), [3, 4, 5]);
        scene.reload("max_connections = 8").unwrap();
        assert_eq!(scene.at_once(), [0, 0, 0]);
        // Faster, with the same burst.
        let faster = "network_limit = \"rate=0.01,burst=3\"\nendpoint_limit = \"rate=0.01,burst=4\"\n";
        scene.reload(&format!("{faster}wake_limit = \"off\"")).unwrap();
        assert_eq!(scene.at_once(), [3, 4, 100]);
    }
}
