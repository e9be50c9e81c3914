//! The machine: what it is, which commit it measures, and its load while it measures (proc(5)).

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Kernel ticks of a second in `/proc` (`USER_HZ`, always 100 on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// Description of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model name of the CPU.
    pub(crate) cpu: String,
    /// Number of cores that this process may use.
    pub(crate) cores: usize,
    /// Memory in GiB, rounded.
    pub(crate) memory_gib: u64,
    /// Kernel release.
    pub(crate) kernel: String,
}

impl Machine {
    /// Reads the description from the kernel.
    pub(crate) fn describe() -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim().to_owned();
            Some(line)
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
        Ok(Self {
            cpu: field(&read("/proc/cpuinfo")?, "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib / 1024.0 / 1024.0).round() as u64,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// The commit of the checkout, and whether files differ from it. Results and documents of this program do not count.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(test_runner::env::checkout()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"]).is_some_and(|text| !text.is_empty());
    if changed { commit + "-dirty" } else { commit }
}

/// The time in UTC, as `2026-01-31 12:00`.
pub(crate) fn now_utc() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The machine's load over the measured slices of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoadSummary {
    /// Load average of the last minute when the run began.
    pub(crate) loadavg_before: f64,
    /// Share of the machine's CPU time that was idle.
    pub(crate) idle: f64,
    /// Share that the hypervisor gave to others.
    pub(crate) steal: f64,
    /// Share that processes used which this run did not start.
    pub(crate) foreign: f64,
}

/// A reading of the machine's CPU time, in seconds since boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTimes {
    busy: f64,
    idle: f64,
    steal: f64,
    ours: f64,
}

impl CpuTimes {
    /// Reads `/proc/stat`, and the CPU time of this process and all its descendants.
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_ascii_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let [user, nice, system, idle, iowait, _irq, _softirq, steal, ..] = ticks[..] else {
            anyhow::bail!("/proc/stat has another form: {line}");
        };
        let seconds = |ticks: f64| ticks / TICKS_PER_SECOND;
        Ok(Self {
            busy: seconds(user + nice + system),
            idle: seconds(idle + iowait),
            steal: seconds(steal),
            ours: crate::accounting::tree_seconds(std::process::id().cast_signed()),
        })
    }
}

/// Adds up the load of the measured slices.
#[derive(Clone, Debug)]
pub(crate) struct LoadMeter {
    loadavg_before: f64,
    began: Option<CpuTimes>,
    total: CpuTimes,
}

impl LoadMeter {
    /// A meter that has seen nothing.
    pub(crate) fn new() -> Self {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let loadavg_before = text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let total = CpuTimes { busy: 0.0, idle: 0.0, steal: 0.0, ours: 0.0 };
        Self { loadavg_before, began: None, total }
    }

    /// Begins a slice.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.began = Some(CpuTimes::read()?);
        Ok(())
    }

    /// Ends the slice.
    pub(crate) fn end(&mut self) -> Result<()> {
        let Some(before) = self.began.take() else { return Ok(()) };
        let after = CpuTimes::read()?;
        self.total.busy += after.busy - before.busy;
        self.total.idle += after.idle - before.idle;
        self.total.steal += after.steal - before.steal;
        self.total.ours += after.ours - before.ours;
        Ok(())
    }

    /// The shares over all slices.
    pub(crate) fn summary(&self) -> LoadSummary {
        let all = (self.total.busy + self.total.idle + self.total.steal).max(f64::MIN_POSITIVE);
        LoadSummary {
            loadavg_before: self.loadavg_before,
            idle: self.total.idle / all,
            steal: self.total.steal / all,
            foreign: (self.total.busy - self.total.ours).max(0.0) / all,
        }
    }
}
