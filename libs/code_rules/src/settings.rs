//! Settings: the exceptions that the repository allows, each with its reason.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::SourceError;

/// Where the settings are, relative to the root of the repository.
const SETTINGS_FILE: &str = ".config/code_rules.toml";

/// The content of `.config/code_rules.toml`. A repository without the file allows no exception.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Groups of files that may import each other.
    #[serde(default)]
    pub circle: Vec<AllowedCircle>,
}

/// Files that are one thing and may therefore import each other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedCircle {
    /// The files of the circle, relative to the root of the repository.
    pub files: Vec<PathBuf>,
    /// Why they are one thing. Must not be empty.
    pub reason: String,
}

impl Settings {
    /// Reads the settings of the repository at `root`.
    pub(crate) fn load(root: &Path) -> Result<Self, SourceError> {
        let path = root.join(SETTINGS_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(SourceError::Read { path, error }),
        };

        let settings: Self = toml::from_str(&text)
            .map_err(|error| SourceError::Settings { path: path.clone(), reason: error.to_string() })?;
        if settings.circle.iter().any(|circle| circle.reason.trim().is_empty()) {
            return Err(SourceError::Settings { path, reason: "a circle has no reason".to_owned() });
        }
        Ok(settings)
    }
}
