//! Stop of a cluster, in the order in which the safekeepers receive all WAL of the primary.
//!
//! First the proxy stops, whose clients would wake the primary again, then PostgreSQL while walproposer and quorum run,
//! then the walproposer, then the safekeepers.
//!
//! A fast stop of PostgreSQL waits for its standby to acknowledge the shutdown checkpoint. When there is no quorum
//! that acknowledgement never comes, and every heartbeat of the walproposer keeps PostgreSQL waiting. Without the
//! walproposer PostgreSQL ends at once and cleanly, and the next start pushes the missing WAL.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use wal_types::Lsn;

use super::{Cluster, PartName, ReportStep};
use crate::process::ProcessId;
use crate::wait;

/// Time without a move of the commit LSN after which the stop no longer waits for it.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Time for sessions of the proxy to finish before they are cut off.
const PROXY_DRAIN_WAIT: Duration = Duration::from_secs(5);
/// Time limit for the end of a program other than PostgreSQL.
const END_TIMEOUT: Duration = Duration::from_secs(15);

impl Cluster {
    /// Stops all parts in order.
    pub async fn stop(&mut self, report: ReportStep<'_>) -> Result<()> {
        if self.is_running(PartName::Proxy) {
            report("stopping proxy");
        }

        self.end_part_gently(PartName::Proxy).await?;
        if self.is_running(PartName::Postgres) {
            report("stopping postgres");
            self.stop_postgres(report).await?;
            self.report_missing_wal(report).await;
        }

        self.clear_process(PartName::Postgres)?;
        if self.is_running(PartName::Walproposer) {
            report("stopping walproposer");
        }

        self.end_part_gently(PartName::Walproposer).await?;
        for part in self.parts() {
            if self.is_running(part) {
                report(&format!("stopping {part}"));
            }
            self.end_part_gently(part).await?;
        }
        Ok(())
    }

    /// Stops one part.
    pub async fn stop_part(&mut self, name: PartName, report: ReportStep<'_>) -> Result<()> {
        if name != PartName::Postgres {
            return self.end_part_gently(name).await;
        }
        let had_walproposer = self.is_running(PartName::Walproposer);
        if self.is_running(name) {
            self.stop_postgres(report).await?;
        }
        self.clear_process(name)?;
        if had_walproposer && !self.is_running(PartName::Walproposer) {
            self.start_part(PartName::Walproposer).await?;
        }
        Ok(())
    }

    /// Stops PostgreSQL with a fast stop. If the commit LSN stands still meanwhile, stops the walproposer too.
    async fn stop_postgres(&mut self, report: ReportStep<'_>) -> Result<()> {
        let Some(process) = self.part(PartName::Postgres)?.process else { return Ok(()) };
        process.signal(Signal::SIGINT)?;
        if self.wait_while_commits_move(process).await {
            return Ok(());
        }

        let why = self.stall_reason().await;
        report(&format!(
            "the commit LSN stood still for {} s ({why}): stopping the walproposer, so that postgres can end; the \
             next start pushes the rest",
            STOP_WAIT.as_secs()
        ));

        self.end_part_gently(PartName::Walproposer).await?;
        if process.wait_gone(STOP_WAIT).await.is_err() {
            report("postgres still runs: immediate stop, its next start runs crash recovery");
            process.end(Signal::SIGQUIT, STOP_WAIT).await?;
        }
        Ok(())
    }

    /// True when the process ended; false when the commit LSN has not moved for `STOP_WAIT`.
    async fn wait_while_commits_move(&self, process: ProcessId) -> bool {
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let what = "postgres to stop";
            let step = Duration::from_millis(200);
            if wait::until(what, step, async || Ok((!process.is_alive()).then_some(()))).await.is_ok() {
                return true;
            }
            let now = self.walproposer().status().await.ok().and_then(|status| status.commit_lsn);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= STOP_WAIT {
                return false;
            }
        }
    }

    async fn stall_reason(&self) -> String {
        match self.walproposer().status().await {
            Ok(status) => status.blocked.unwrap_or_else(|| format!("the walproposer is {}", status.state)),
            Err(_) => "the walproposer does not answer".into(),
        }
    }

    /// After a clean stop, reports when the quorum lacks the shutdown checkpoint; the end of PostgreSQL alone does not
    /// show it. A checkpoint record that begins below a commit LSN also ends at or below it, because a commit LSN is
    /// the end of a record.
    async fn report_missing_wal(&self, report: ReportStep<'_>) {
        let (Ok(checkpoint), Some(quorum)) =
            (self.postgres().last_checkpoint().await, self.quorum_flush().await)
        else {
            return;
        };
        if quorum <= checkpoint {
            report(&format!("a quorum holds the WAL up to {quorum}; the rest is pushed at the next start"));
        }
    }

    /// The highest LSN that a majority of the safekeepers has on disk.
    async fn quorum_flush(&self) -> Option<Lsn> {
        let mut flushed = Vec::new();
        for safekeeper in self.safekeepers().ok()? {
            let timeline = safekeeper.timeline(&self.state.tenant_id, &self.state.timeline_id).await;
            flushed.push(
                timeline.ok().and_then(|timeline| timeline.flush_lsn.parse().ok()).unwrap_or(Lsn::INVALID),
            );
        }
        flushed.sort();
        flushed.get((flushed.len() - 1) / 2).copied()
    }

    /// Sends SIGTERM, and SIGKILL to a program that does not end in time: none of them needs a clean end.
    pub(super) async fn end_part_gently(&mut self, name: PartName) -> Result<()> {
        if let (PartName::Proxy, Some(process)) = (name, self.part(name)?.process) {
            // At the first SIGTERM the proxy lets its sessions finish; at the second it ends at once.
            let _ = process.end(Signal::SIGTERM, PROXY_DRAIN_WAIT).await;
        }
        if let Some(process) = self.part(name)?.process
            && process.end(Signal::SIGTERM, END_TIMEOUT).await.is_err()
        {
            process.kill().await?;
        }
        self.clear_process(name)
    }

    /// Sends SIGKILL, as a crash would end the program. Children of PostgreSQL end by themselves when they see that
    /// their postmaster is gone.
    pub async fn kill_part(&mut self, name: PartName) -> Result<()> {
        if let Some(process) = self.part(name)?.process {
            process.kill().await?;
        }
        self.clear_process(name)
    }

    /// Ends all parts without waiting for their sessions or WAL: after a failed start.
    pub async fn end_at_once(&mut self) -> Result<()> {
        self.end_part_gently(PartName::Proxy).await?;
        if let Some(process) = self.state.postgres.process
            && process.end(Signal::SIGINT, Duration::from_secs(3)).await.is_err()
        {
            process.end(Signal::SIGQUIT, END_TIMEOUT).await?;
        }
        self.clear_process(PartName::Postgres)?;
        for part in self.parts() {
            self.end_part_gently(part).await?;
        }
        Ok(())
    }

    fn clear_process(&mut self, name: PartName) -> Result<()> {
        self.part_mut(name)?.process = None;
        self.save()
    }
}
