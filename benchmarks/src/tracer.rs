//! Tracer: counts system calls of running processes with `perf stat`, which hardly slows them. Needs root and perf.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use test_runner::process::ProcessId;
use tokio::process::Command;

/// The event of every system call.
pub(crate) const ANY: &str = "raw_syscalls:sys_enter";
/// The event of `fdatasync`.
pub(crate) const FDATASYNC: &str = "syscalls:sys_enter_fdatasync";

/// The event of `fsync`, which `pg_receivewal` uses.
pub(crate) const FSYNC: &str = "syscalls:sys_enter_fsync";

/// True when system calls can be counted on this machine.
pub(crate) async fn is_available() -> bool {
    let probe = Command::new("perf").args(["stat", "-x,", "-e", ANY, "true"]).output().await;
    probe.is_ok_and(|output| {
        output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("<not supported>")
    })
}

/// Counts events of all threads of these processes (not of children) for a time. Returns a count for each event.
pub(crate) async fn count(processes: &[ProcessId], events: &[&str], time: Duration) -> Result<Vec<f64>> {
    let pids: Vec<String> = processes.iter().map(|process| process.pid.to_string()).collect();
    let mut command = Command::new("perf");
    command.args(["stat", "-x,", "-e", &events.join(","), "-p", &pids.join(",")]);
    command.args(["--", "sleep", &time.as_secs_f64().to_string()]).kill_on_drop(true);
    let output = command.output().await.context("cannot run perf: ./dev bench installs it")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("perf stat failed: {}", text.trim());
    }
    events.iter().map(|event| counted(&text, event)).collect()
}

/// The count of an event in the output of `perf stat -x,`. Processes that slept all the time are `<not counted>`.
fn counted(text: &str, event: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.split(',').nth(2) == Some(event));
    let line = line.with_context(|| format!("perf stat printed no {event}: {text}"))?;
    let value = line.split(',').next().unwrap_or_default();
    if value == "<not counted>" { Ok(0.0) } else { value.parse().with_context(|| line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_perf() {
        let text = "1234,,raw_syscalls:sys_enter,1000,100.00,,\n<not counted>,,syscalls:sys_enter_fdatasync,0,100.00,,\n";
        assert_eq!(counted(text, ANY).unwrap(), 1234.0);
        assert_eq!(counted(text, FDATASYNC).unwrap(), 0.0);
        assert!(counted("", ANY).is_err());
    }
}
