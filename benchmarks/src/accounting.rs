//! Accounting: CPU time, wake-ups and memory of processes, from the kernel (proc(5), clock_gettime(2)).
//!
//! CPU time of a living process is read from its own clock, in nanoseconds, with the threads that have ended. That of
//! children that have ended is known in ticks of 10 ms.

use std::collections::HashMap;
use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::Pid;
use test_runner::process::ProcessId;

/// Seconds of a kernel tick in `/proc` (`USER_HZ`, always 100 on Linux).
const TICK_SECONDS: f64 = 0.01;

/// What processes have used since they began; subtract two readings for what they used between them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time, user and kernel, in microseconds.
    pub(crate) cpu_us: f64,
    /// Times that a thread slept and was woken: voluntary context switches.
    pub(crate) wakeups: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { cpu_us: self.cpu_us - earlier.cpu_us, wakeups: self.wakeups - earlier.wakeups }
    }
}

impl Usage {
    /// Usage of these processes and all their descendants, added up.
    pub(crate) fn of(processes: &[ProcessId]) -> Result<Self> {
        let table = ProcessTable::read();
        let mut total = Self::default();
        for process in processes {
            for pid in table.tree(process.pid) {
                total.cpu_us += cpu_us(pid).unwrap_or(0.0) + table.reaped_seconds(pid) * 1e6;
                total.wakeups += wakeups(pid);
            }
        }
        Ok(total)
    }
}

/// CPU time of a process and all its descendants, living or ended, in seconds.
pub(crate) fn tree_seconds(root: i32) -> f64 {
    let table = ProcessTable::read();
    table.tree(root).iter().map(|pid| cpu_us(*pid).unwrap_or(0.0) / 1e6 + table.reaped_seconds(*pid)).sum()
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// Resident memory in KiB; shared pages count in full.
    pub(crate) resident_kib: f64,
    /// Memory of its own in KiB: pages that no other process maps.
    pub(crate) private_kib: f64,
}

impl Memory {
    /// Memory of one process, without its children.
    pub(crate) fn of(process: ProcessId) -> Result<Self> {
        let file = format!("/proc/{}/smaps_rollup", process.pid);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let kib = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0)
        };
        Ok(Self { resident_kib: kib("Rss"), private_kib: kib("Private_Clean") + kib("Private_Dirty") })
    }
}

/// Number of open descriptors of a process.
pub(crate) fn descriptors(process: ProcessId) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid)).map_or(0, Iterator::count)
}

fn cpu_us(pid: i32) -> Option<f64> {
    let time = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok()?.now().ok()?;
    Some(time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3)
}

fn wakeups(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |directory: std::path::PathBuf| {
        let text = fs::read_to_string(directory.join("status")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        value.trim().parse::<f64>().ok()
    };
    threads.filter_map(|thread| of_thread(thread.path())).sum()
}

/// Parents and reaped time of all processes at one moment.
struct ProcessTable {
    children: HashMap<i32, Vec<i32>>,
    reaped_ticks: HashMap<i32, f64>,
}

impl ProcessTable {
    fn read() -> Self {
        let mut table = Self { children: HashMap::new(), reaped_ticks: HashMap::new() };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let Some((parent, reaped)) =
                fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(fields)
            else {
                continue;
            };
            table.children.entry(parent).or_default().push(pid);
            table.reaped_ticks.insert(pid, reaped);
        }
        table
    }

    fn tree(&self, root: i32) -> Vec<i32> {
        let mut found = vec![root];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            found.extend(self.children.get(&pid).into_iter().flatten());
            next += 1;
        }
        found
    }

    fn reaped_seconds(&self, pid: i32) -> f64 {
        self.reaped_ticks.get(&pid).copied().unwrap_or(0.0) * TICK_SECONDS
    }
}

/// The parent, and the ticks of children that were waited for (fields 4, 16 and 17 of `/proc/PID/stat`).
fn fields(stat: &str) -> Option<(i32, f64)> {
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(13)? + ticks(14)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_fields_survive_a_strange_name() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 100 0";
        assert_eq!(fields(line), Some((3, 15.0)));
    }

    #[test]
    fn own_usage_grows() {
        let own = ProcessId::find(std::process::id().cast_signed()).unwrap();
        let before = Usage::of(&[own]).unwrap();
        let text: String = (0..200_000).map(|number| number.to_string()).collect();
        let used = Usage::of(&[own]).unwrap() - before;
        assert!(used.cpu_us > 0.0 && !text.is_empty(), "{used:?}");
        assert!(Memory::of(own).unwrap().resident_kib > 0.0);
    }
}
