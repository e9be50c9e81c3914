//! [`RunProgress`]: finished cycles and counters of a run, in a file that is synced after every cycle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use test_runner::cluster::state::write_private;

/// Finished cycles and counters of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunProgress {
    /// Seed of the plans.
    pub(crate) seed: u64,
    /// Finished cycles.
    pub(crate) cycles: u64,
    /// Whether all cycles are done.
    pub(crate) is_finished: bool,
    /// Error that ended the run.
    pub(crate) failed: Option<String>,
    /// Kills of safekeepers.
    pub(crate) safekeeper_kills: u64,
    /// Kills of the walproposer.
    pub(crate) walproposer_kills: u64,
    /// Kills of the primary.
    pub(crate) primary_kills: u64,
    /// Unsynced changes that killed safekeepers lost.
    pub(crate) forgotten: u64,
    /// Bytes of WAL that were read back and compared.
    pub(crate) compared_bytes: u64,
    /// Examinations by the oracle.
    pub(crate) oracles: u64,
    /// Acknowledged rows at the last examination.
    pub(crate) rows: u64,
    /// Running time of all cycles.
    pub(crate) seconds: f64,
    /// Boot id of the kernel: changes when the machine restarts (random(4)).
    pub(crate) boot: String,
    #[serde(skip)]
    file: PathBuf,
}

impl RunProgress {
    /// A run in this directory before its first cycle.
    pub(crate) fn new(directory: &Path, seed: u64) -> Result<Self> {
        Ok(Self {
            seed,
            cycles: 0,
            is_finished: false,
            failed: None,
            safekeeper_kills: 0,
            walproposer_kills: 0,
            primary_kills: 0,
            forgotten: 0,
            compared_bytes: 0,
            oracles: 0,
            rows: 0,
            seconds: 0.0,
            boot: boot()?,
            file: file(directory),
        })
    }

    /// `None` when there is no run in this directory.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>> {
        let file = file(directory);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let read = serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
        Ok(Some(Self { file, ..read }))
    }

    /// Saves the file durably.
    pub(crate) fn save(&self) -> Result<()> {
        write_private(&self.file, &serde_json::to_string_pretty(self)?)?;
        let directory = self.file.parent().context("no directory")?;
        Ok(File::open(directory)?.sync_all()?)
    }

    /// True when the machine was restarted since the last call or save.
    pub(crate) fn is_of_another_boot(&mut self) -> Result<bool> {
        let before = std::mem::replace(&mut self.boot, boot()?);
        Ok(before != self.boot)
    }

    /// The last line of a run that passed.
    pub(crate) fn summary(&self) -> String {
        format!(
            "chaos: passed: seed {}, {} cycles, {} oracles; kills: {} of safekeepers, {} of the walproposer, {} of the \
             primary; {} unsynced changes forgotten; {} MB of WAL read back and compared; {} acknowledged rows, none \
             lost; {:.0} s, {:.1} cycles a minute",
            self.seed,
            self.cycles,
            self.oracles,
            self.safekeeper_kills,
            self.walproposer_kills,
            self.primary_kills,
            self.forgotten,
            self.compared_bytes / 1_000_000,
            self.rows,
            self.seconds,
            self.cycles as f64 * 60.0 / self.seconds.max(1.0)
        )
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("progress.json")
}

fn boot() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_as_it_was_saved() {
        let directory = tempfile::tempdir().unwrap();
        assert!(RunProgress::load(directory.path()).unwrap().is_none());
        let mut progress = RunProgress::new(directory.path(), 7).unwrap();
        progress.cycles = 3;
        progress.save().unwrap();
        let mut again = RunProgress::load(directory.path()).unwrap().unwrap();
        assert_eq!((again.seed, again.cycles), (7, 3));
        assert!(!again.is_of_another_boot().unwrap());
        again.save().unwrap();
    }
}
