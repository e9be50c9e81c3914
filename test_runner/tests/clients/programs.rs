//! Locations of the clients of other makers, which `./dev setup` installs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use test_runner::env::state;

/// A file that `./dev setup` installed below `.holdfast/tools`; `None` when it is missing and tests may be skipped.
pub(crate) fn tool(path: &str, how: &str) -> Result<Option<PathBuf>> {
    present(state()?.join("tools").join(path), how)
}

/// A file of a package of the system.
pub(crate) fn system_file(path: &str, how: &str) -> Result<Option<PathBuf>> {
    present(path.into(), how)
}

/// A program on the PATH.
pub(crate) fn program(name: &str, how: &str) -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    present(found.unwrap_or(name.into()), how)
}

/// A script that lies beside this file.
pub(crate) fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name).display().to_string()
}

#[expect(clippy::print_stderr, reason = "what a test runner shows of a test that was left out")]
fn present(file: PathBuf, how: &str) -> Result<Option<PathBuf>> {
    if file.exists() {
        return Ok(Some(file));
    }
    let missing = format!("{} is missing: run ./dev setup, or install {how}", file.display());
    if std::env::var("HOLDFAST_SKIP_CLIENTS").is_ok_and(|value| value == "1") {
        eprintln!("left out: {missing}");
        return Ok(None);
    }
    bail!("{missing}; HOLDFAST_SKIP_CLIENTS=1 leaves this test out")
}
