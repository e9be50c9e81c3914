//! Crashes of a run: kills programs as a failing machine would, and lets disks lose what was not synced.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use test_runner::cluster::PartName;
use test_runner::process::ProcessId;

use super::{Run, disk, safekeepers};

impl Run {
    /// Kills all parts with SIGKILL, as nearly at once as possible. Returns the number of changes that safekeepers
    /// lost.
    pub(super) async fn crash(&mut self, parts: &[PartName], forgets: bool) -> Result<u64> {
        for id in safekeepers(parts) {
            self.tap(id)?.set_open(false);
        }

        let mut children = Vec::new();
        for part in parts {
            if let Some(process) = self.cluster.part(*part)?.process {
                children.extend(process.children());
                process.signal(Signal::SIGKILL)?;
            }
        }

        // A machine that fails ends all processes of PostgreSQL, not only the postmaster.
        for child in &children {
            child.signal(Signal::SIGKILL)?;
        }

        for part in parts {
            self.cluster.kill_part(*part).await?;
        }

        for child in children {
            child.kill().await?;
        }

        let mut forgotten = 0;
        for id in safekeepers(parts) {
            self.tap(id)?.wait_all_read().await?;
            forgotten += self.apply_disk_loss(id, forgets)?;
        }
        Ok(forgotten)
    }

    /// Lets the disk of a killed safekeeper lose or keep its unsynced changes. Returns the number of lost ones.
    pub(super) fn apply_disk_loss(&self, id: u64, forgets: bool) -> Result<u64> {
        let disk = disk(&self.cluster, id)?;
        if forgets { Ok(disk.lose_unsynced()? as u64) } else { disk.keep_unsynced().map(|()| 0) }
    }

    /// Starts a safekeeper and kills it again, while it reads its disk or just after.
    pub(super) async fn kill_at_start(&self, id: u64, delay: Duration, forgets: bool) -> Result<u64> {
        let process: ProcessId = self.cluster.safekeeper(id)?.program()?.spawn()?;
        tokio::time::sleep(delay).await;
        process.kill().await?;
        if disk(&self.cluster, id)?.has_journal() { self.apply_disk_loss(id, forgets) } else { Ok(0) }
    }
}
