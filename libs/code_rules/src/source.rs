//! Source: reads and parses every Rust file of the repository, and the page of metrics.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The page that lists every metric, relative to the root of the repository.
pub(crate) const METRICS_PAGE: &str = "docs/metrics.md";

/// Every Rust file below the root, parsed.
pub(crate) struct Repository {
    /// Sorted by path.
    pub(crate) files: Vec<SourceFile>,
    /// The text of [`METRICS_PAGE`]; empty when there is none.
    pub(crate) metrics_page: String,
}

/// One Rust file.
pub(crate) struct SourceFile {
    /// Relative to the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

/// Why the repository could not be checked.
#[derive(Debug)]
pub enum SourceError {
    /// A file or directory could not be read.
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is not valid Rust.
    Parse {
        /// The file, relative to the root of the repository.
        path: PathBuf,
        /// What the parser says, and where.
        error: syn::Error,
    },
    /// The settings are not valid.
    Settings {
        /// The file of the settings.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Parse { path, error } => {
                write!(f, "{}:{}: not valid Rust: {error}", path.display(), error.span().start().line)
            }
            Self::Settings { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for SourceError {}

impl Repository {
    pub(crate) fn load(root: &Path) -> Result<Self, SourceError> {
        let mut paths = Vec::new();
        collect_rust_files(root, &mut paths)?;
        paths.sort();

        let files = paths.iter().map(|path| SourceFile::load(root, path)).collect::<Result<_, _>>()?;
        let metrics_page = fs::read_to_string(root.join(METRICS_PAGE)).unwrap_or_default();
        Ok(Self { files, metrics_page })
    }
}

impl SourceFile {
    fn load(root: &Path, path: &Path) -> Result<Self, SourceError> {
        let text = read(path)?;
        let relative = path.strip_prefix(root).unwrap_or(path).to_owned();
        let syntax =
            syn::parse_file(&text).map_err(|error| SourceError::Parse { path: relative.clone(), error })?;
        Ok(Self { path: relative, text, syntax })
    }

    /// Whether the file is part of a program or library: it lies under a `src` directory and is no file of tests.
    pub(crate) fn is_product(&self) -> bool {
        let mut parts = self.path.iter().filter_map(|part| part.to_str());
        let in_sources = parts.any(|part| part == "src");
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        in_sources && stem != "tests" && !stem.ends_with("_tests") && !parts.any(|part| part == "tests")
    }
}

fn read(path: &Path) -> Result<String, SourceError> {
    fs::read_to_string(path).map_err(|error| SourceError::Read { path: path.to_owned(), error })
}

/// Adds the Rust files below `directory`. Build output and hidden directories are left out.
fn collect_rust_files(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let failed = |error| SourceError::Read { path: directory.to_owned(), error };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        let name = name.to_string_lossy();

        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            collect_rust_files(&path, paths)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}
