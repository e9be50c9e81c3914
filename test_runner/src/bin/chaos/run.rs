//! [`Run`]: one cycle of kills on a cluster under load, and the examination by the oracle.

mod crash;
mod start;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use test_runner::cluster::{Cluster, PartName};
use test_runner::unsynced::ForgettingDisk;
use test_runner::wire::Tap;
use test_runner::workload::Workload;
use test_runner::{oracle, wait};
use wal_types::Lsn;

use super::inspect::{Inspection, inspect};
use super::plan::Plan;
use super::progress::RunProgress;
use super::rows::RowLog;

/// Time limit for commits to go through after a crash.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit for the sync of the acknowledged rows.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster under load.
pub(crate) struct Run {
    cluster: Cluster,
    taps: BTreeMap<u64, Tap>,
    /// Position up to which the bytes of each safekeeper were compared.
    compared: BTreeMap<u64, Lsn>,
    workload: Workload,
    rows: RowLog,
    /// Number of rows in the last printed line.
    rows_reported: u64,
}

impl Run {
    /// All parts without the proxy, which a run does not start.
    fn parts(&self) -> Vec<PartName> {
        self.cluster.parts().into_iter().filter(|part| *part != PartName::Proxy).collect()
    }

    /// Runs one cycle: kills the parts of the plan, inspects the killed safekeepers and restarts all. Returns its line.
    pub(crate) async fn cycle(&mut self, cycle: u64, progress: &mut RunProgress) -> Result<String> {
        let plan = Plan::of(progress.seed, cycle);
        self.wait_for_rows(plan.rows).await?;
        tokio::time::sleep(plan.delay).await;
        let mut forgotten = self.crash(&plan.parts, plan.forgets).await?;
        let mut again = "";
        if let (Some(delay), Some(id)) = (plan.again, safekeepers(&plan.parts).next()) {
            forgotten += self.kill_at_start(id, delay, plan.forgets).await?;
            again = " (twice)";
        }

        let found = self.restart_and_inspect(&plan.parts).await?;
        self.check_running()?;
        count(progress, &plan.parts, forgotten, &found);
        let names: Vec<String> = plan.parts.iter().map(PartName::to_string).collect();
        let forgot = if plan.forgets { format!(", {forgotten} changes forgotten") } else { String::new() };
        let rows = self.workload.count();
        let before = std::mem::replace(&mut self.rows_reported, rows);
        Ok(format!(
            "killed {}{again}{forgot}{}; {rows} rows (+{})",
            names.join(" "),
            describe(&found),
            rows - before
        ))
    }

    async fn wait_for_rows(&self, rows: u64) -> Result<()> {
        let waited = self.workload.wait_for_more(rows.max(1), PROGRESS_TIMEOUT).await;
        if waited.is_err() {
            let status = self.cluster.status().await?;
            bail!(
                "commits stand still: {}",
                status.blocked.unwrap_or_else(|| "the walproposer reports no reason".into())
            );
        }
        Ok(())
    }

    /// Restarts and inspects each safekeeper while the taps are closed, then opens the taps and restarts the rest.
    async fn restart_and_inspect(&mut self, parts: &[PartName]) -> Result<Vec<Inspection>> {
        let mut found = Vec::new();
        for id in safekeepers(parts) {
            self.cluster.start_part(PartName::Safekeeper(id)).await?;
            found.push(self.inspect(id, false).await?);
        }
        for id in safekeepers(parts) {
            self.tap(id)?.set_open(true);
        }
        for part in [PartName::Postgres, PartName::Walproposer] {
            if parts.contains(&part) {
                self.cluster.start_part(part).await?;
            }
        }
        Ok(found)
    }

    async fn inspect(&mut self, id: u64, is_whole: bool) -> Result<Inspection> {
        let compared = if is_whole { None } else { self.compared.get(&id).copied() };
        let found = inspect(&self.cluster, id, self.tap(id)?, compared.unwrap_or(Lsn(0))).await?;
        self.compared.insert(id, found.acknowledged);
        Ok(found)
    }

    fn check_running(&self) -> Result<()> {
        for part in self.parts() {
            ensure!(
                self.cluster.is_running(part),
                "{part} ended by itself: {}",
                self.cluster.log(part).display()
            );
        }
        self.taps.values().try_for_each(Tap::check)
    }

    /// Kills all parts, compares the whole log of every safekeeper and runs the oracle. Restarts all parts unless
    /// `is_last`. Returns a sentence about the result.
    pub(crate) async fn oracle(
        &mut self,
        cycle: u64,
        is_last: bool,
        progress: &mut RunProgress,
    ) -> Result<String> {
        self.wait_for_rows(1).await?;
        let (parts, forgets) = (self.parts(), Plan::of(progress.seed, cycle).forgets);
        let mut forgotten = self.crash(&parts, forgets).await?;
        let mut found = Vec::new();
        for id in safekeepers(&parts) {
            self.cluster.start_part(PartName::Safekeeper(id)).await?;
            found.push(self.inspect(id, true).await?);
            self.cluster.kill_part(PartName::Safekeeper(id)).await?;
            forgotten += self.apply_disk_loss(id, forgets)?;
        }

        count(progress, &parts, forgotten, &found);
        let rows = self.synced_rows().await?;
        ensure!(rows.len() as u64 >= progress.rows, "fewer acknowledged rows than at the last examination");
        if let Some(loss) = oracle::find_loss(&self.cluster, &rows).await? {
            bail!("lost: {loss}");
        }

        oracle::clean_up(&self.cluster)?;
        progress.oracles += 1;
        progress.rows = rows.len() as u64;
        if !is_last {
            self.restart_and_inspect(&parts).await?;
            self.check_running()?;
        }
        Ok(format!("each pair of safekeepers has all {} acknowledged rows{}", rows.len(), describe(&found)))
    }

    /// All acknowledged rows; to be called when no part runs.
    async fn synced_rows(&self) -> Result<test_runner::workload::Rows> {
        wait::until("acknowledged rows to be synced", SYNC_TIMEOUT, async || {
            Ok((self.rows.synced() >= self.workload.count()).then_some(()))
        })
        .await?;
        self.rows.read()
    }

    /// Makes the records of the taps durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.taps.values().try_for_each(|tap| tap.record().sync())
    }

    fn tap(&self, id: u64) -> Result<&Tap> {
        self.taps.get(&id).with_context(|| format!("there is no tap for sk{id}"))
    }
}

fn disk(cluster: &Cluster, id: u64) -> Result<ForgettingDisk> {
    cluster.forgetting_disk(id).context("an ordinary disk")
}

fn safekeepers(parts: &[PartName]) -> impl Iterator<Item = u64> {
    parts.iter().filter_map(|part| match part {
        PartName::Safekeeper(id) => Some(*id),
        _ => None,
    })
}

fn count(progress: &mut RunProgress, parts: &[PartName], forgotten: u64, found: &[Inspection]) {
    progress.safekeeper_kills += safekeepers(parts).count() as u64;
    progress.walproposer_kills += u64::from(parts.contains(&PartName::Walproposer));
    progress.primary_kills += u64::from(parts.contains(&PartName::Postgres));
    progress.forgotten += forgotten;
    progress.compared_bytes += found.iter().map(|found| found.compared_bytes).sum::<u64>();
}

fn describe(found: &[Inspection]) -> String {
    let one = |found: &Inspection| {
        format!(
            "; sk{} acknowledged {} reports {} ({} KB compared)",
            found.id,
            found.acknowledged,
            found.flush,
            found.compared_bytes / 1000
        )
    };
    found.iter().map(one).collect()
}
