//! Stopping, in the order that lets the primary hand over everything: the proxy first, whose clients would wake the
//! primary again, then PostgreSQL while walproposer and quorum live, then the walproposer, then the safekeepers.
//!
//! A fast stop of PostgreSQL waits for its standby to acknowledge the shutdown checkpoint. When there is no quorum
//! that acknowledgement never comes, and every heartbeat of the walproposer keeps PostgreSQL waiting; without the
//! walproposer it ends at once and cleanly, and the next start pushes what is missing.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use wal_types::Lsn;

use super::{Cluster, PartName, ReportStep};
use crate::process::ProcessId;
use crate::wait;

/// How long the commit LSN may stand still before the stop no longer waits for it.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long the proxy's sessions may take to finish before they are cut.
const PROXY_DRAIN_WAIT: Duration = Duration::from_secs(5);
/// How long a program other than PostgreSQL may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(15);

impl Cluster {
    /// Stops everything in order.
    pub async fn stop(&mut self, report: ReportStep<'_>) -> Result<()> {
        if self.is_running(PartName::Proxy) {
            report("stopping proxy");
        }
        self.end_part_gently(PartName::Proxy).await?;
        if self.is_running(PartName::Postgres) {
            report("stopping postgres");
            self.stop_postgres(report).await?;
            self.say_what_the_quorum_lacks(report).await;
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

    /// Fast stop; the walproposer is stopped too when the commit LSN stands still meanwhile.
    async fn stop_postgres(&mut self, report: ReportStep<'_>) -> Result<()> {
        let Some(process) = self.part(PartName::Postgres)?.process else { return Ok(()) };
        process.signal(Signal::SIGINT)?;
        if self.wait_while_commits_move(process).await {
            return Ok(());
        }
        let why = self.why_commits_stand_still().await;
        report(&format!(
            "the commit LSN stood still for {} s ({why}): stopping the walproposer, so that postgres can end; the \
             next start pushes the rest",
            STOP_WAIT.as_secs()
        ));
        self.end_part_gently(PartName::Walproposer).await?;
        if process.wait_gone(STOP_WAIT).await.is_err() {
            report("postgres still runs: immediate stop, it will recover at its next start");
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

    async fn why_commits_stand_still(&self) -> String {
        match self.walproposer().status().await {
            Ok(status) => status.blocked.unwrap_or_else(|| format!("the walproposer is {}", status.state)),
            Err(_) => "the walproposer does not answer".into(),
        }
    }

    /// After a clean stop: whether the quorum has the shutdown checkpoint. That PostgreSQL ended says nothing
    /// about it. A checkpoint's record begins below a commit LSN exactly when it also ends there, because a commit
    /// LSN is the end of a record.
    async fn say_what_the_quorum_lacks(&self, report: ReportStep<'_>) {
        let (Ok(checkpoint), Some(quorum)) =
            (self.postgres().last_checkpoint().await, self.quorum_flush().await)
        else {
            return;
        };
        if quorum <= checkpoint {
            report(&format!("a quorum holds the WAL up to {quorum}; the rest is pushed at the next start"));
        }
    }

    /// What a majority of the safekeepers has on disk.
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

    /// SIGTERM, and SIGKILL to what does not end in time: no program here needs a clean end.
    pub(super) async fn end_part_gently(&mut self, name: PartName) -> Result<()> {
        if let (PartName::Proxy, Some(process)) = (name, self.part(name)?.process) {
            // It lets its sessions finish; asked a second time it ends at once.
            let _ = process.end(Signal::SIGTERM, PROXY_DRAIN_WAIT).await;
        }
        if let Some(process) = self.part(name)?.process
            && process.end(Signal::SIGTERM, END_TIMEOUT).await.is_err()
        {
            process.kill().await?;
        }
        self.clear_process(name)
    }

    /// kill -9, as a crash does it. PostgreSQL's children end by themselves when they see that it is gone.
    pub async fn kill_part(&mut self, name: PartName) -> Result<()> {
        if let Some(process) = self.part(name)?.process {
            process.kill().await?;
        }
        self.clear_process(name)
    }

    /// Ends everything without waiting for anybody: after a failed start.
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
