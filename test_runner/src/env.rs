//! Environment of the harness: the tools that `./dev setup` recorded, the programs that cargo built, and a separate
//! directory for each test.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::account::Account;
use crate::logs;

/// Lines of each log that a failing test prints.
const FAILURE_TAIL_LINES: usize = 60;

/// Locations of the programs of a cluster.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Directory of `postgres`, `initdb`, `psql` and the other PostgreSQL programs.
    pub postgres_bin: PathBuf,
    /// Account of PostgreSQL, when the harness runs as root: PostgreSQL refuses to run as root.
    pub account: Option<Account>,
    /// Directory of `safekeeper`, `walproposer`, `proxy` and `local_cluster`.
    pub programs: PathBuf,
}

impl Tools {
    /// Reads what `./dev setup` recorded in `<state>/tools/env`.
    pub fn find(state: &Path) -> Result<Self> {
        let file = state.join("tools/env");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}: run ./dev setup first", file.display()))?;
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.with_context(|| format!("{} has no {name}: run ./dev setup again", file.display()))
        };
        let account = if Uid::effective().is_root() { Some(Account::find(value("PG_USER")?)?) } else { None };
        Ok(Self { postgres_bin: value("PG_BIN")?.into(), account, programs: programs()? })
    }

    /// The path of one of PostgreSQL's programs.
    pub fn postgres(&self, program: &str) -> PathBuf {
        self.postgres_bin.join(program)
    }

    /// Gives a file or an empty directory to the account that PostgreSQL runs as.
    pub fn give_to_postgres(&self, path: &Path) -> Result<()> {
        if let Some(account) = &self.account {
            chown(path, Some(account.uid), Some(account.gid))
                .with_context(|| format!("cannot give {} to PostgreSQL's account", path.display()))?;
        }
        Ok(())
    }
}

/// The directory into which cargo built the programs: the one of this executable, or its parent for a test.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("this program has no directory")?;
    Ok(match directory.ends_with("deps") {
        true => directory.parent().context("deps has no parent")?.to_path_buf(),
        false => directory.to_path_buf(),
    })
}

/// The root directory of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// The state directory `.holdfast`, with links resolved.
pub fn state() -> Result<PathBuf> {
    let link = checkout().join(".holdfast");
    link.canonicalize().with_context(|| format!("{} is not there: run ./dev setup first", link.display()))
}

/// The directory of one test. [`TestEnvironment::passed`] removes it; without that call it stays, and the ends of the
/// logs in it are printed.
#[derive(Debug)]
pub struct TestEnvironment {
    /// The recorded tools.
    pub tools: Tools,
    /// The directory of the test.
    pub directory: PathBuf,
    passed: bool,
}

impl TestEnvironment {
    /// Creates the directory `.holdfast/tests/NAME-PID`.
    pub fn new(name: &str) -> Result<Self> {
        let state = state()?;
        let directory = state.join("tests").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self { tools: Tools::find(&state)?, directory, passed: false })
    }

    /// Marks the test as passed: its directory is removed. To be called at the end of a test.
    pub fn passed(mut self) {
        self.passed = true;
    }

    #[expect(clippy::print_stderr, reason = "test runners show standard error of failed tests")]
    fn print_logs(&self) {
        for log in logs::in_directory(&self.directory) {
            eprintln!("===== {}\n{}", log.display(), logs::tail(&log, FAILURE_TAIL_LINES));
        }
        eprintln!("===== files of the failed test:  {}", self.directory.display());
    }
}

impl Drop for TestEnvironment {
    fn drop(&mut self) {
        if self.passed {
            let _ = fs::remove_dir_all(&self.directory);
        } else {
            self.print_logs();
        }
    }
}

/// Returns the directory NAME below `.holdfast/tests`. The first test that needs it runs `make` to fill it; the others
/// wait for that. An unfinished directory of an interrupted run is made anew.
pub async fn shared_directory(name: &str, make: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let tests = state()?.join("tests");
    fs::create_dir_all(&tests)?;
    let lock = fs::File::create(tests.join(format!("{name}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let (ready, unfinished) = (tests.join(name), tests.join(format!("{name}.unfinished")));
    if !ready.exists() {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        make(&unfinished).await?;
        fs::rename(&unfinished, &ready)?;
    }
    Ok(ready)
}
