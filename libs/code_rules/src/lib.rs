//! Code rules: checks rules of this repository that clippy does not know. CONTRIBUTING.md states them.
//!
//! ```text
//!   main ── check ── source     reads and parses the files of the repository
//!              │
//!              ├──── rules      one file a rule; each takes parsed files and returns violations
//!              │        └── imports ── module_tree     which file a path in `use` or in code leads to
//!              └──── settings   exceptions with their reasons, from `.config/code_rules.toml`
//! ```
//!
//! `./dev lint` runs the binary. Every rule has a test that shows it failing on a small tree of files.

mod module_tree;
mod rules;
mod settings;
mod source;
mod violation;

use std::path::Path;

pub use settings::Settings;
pub use source::SourceError;
pub use violation::Violation;

use crate::source::Repository;

/// Checks the repository below `root`, a directory with a `Cargo.toml`, and returns the violations by path and line.
///
/// # Errors
///
/// [`SourceError`] when a file cannot be read, is not Rust, or the settings are not valid.
pub fn check(root: &Path) -> Result<Vec<Violation>, SourceError> {
    let settings = Settings::load(root)?;
    let repository = Repository::load(root)?;

    let mut violations = Vec::new();
    for file in &repository.files {
        violations.extend(rules::file_length::check(file));
        violations.extend(rules::file_head::check(file));
        violations.extend(rules::test_names::check(file));
    }
    violations.extend(rules::imports::check(&repository, &settings));
    violations.extend(rules::repeats::check(&repository));
    violations.extend(rules::metrics::check(&repository));

    violations.sort();
    Ok(violations)
}
