//! Metrics that every process has: reads them from the operating system and the runtime at each scrape.
//!
//! | metric | meaning |
//! |---|---|
//! | `holdfast_process_start_time_seconds` | time of the start, in seconds since 1970 |
//! | `holdfast_process_cpu_seconds_total` | processor time used, user and system |
//! | `holdfast_process_open_fds` | open file descriptors |
//! | `holdfast_process_max_fds` | soft limit of open file descriptors; absent without a limit |
//! | `holdfast_process_resident_memory_bytes` | resident memory |
//! | `holdfast_process_tasks` | tokio tasks of the main runtime that have not ended |
//!
//! Behind the prefix they have the names that Prometheus clients agree on (Prometheus documentation, "Writing client
//! libraries", process metrics). A value that the system does not tell is left out: a scrape never fails for it.
//! Registered by [`Metrics`](crate::Metrics).

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::collector::encode_metric;

/// Reads the metrics of this process anew at each scrape.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    /// Time since 1970.
    started: Duration,
}

impl ProcessCollector {
    /// The start of the process is taken to be now: the registry is among the first things that a server makes.
    pub(crate) fn new() -> Self {
        Self { started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let started = ConstGauge::new(self.started.as_secs_f64());
        encode_metric(
            &mut encoder,
            "holdfast_process_start_time_seconds",
            "Start, in seconds since 1970",
            &started,
        )?;
        if let Some(used) = cpu_time() {
            let used = ConstCounter::new(used.as_secs_f64());
            encode_metric(
                &mut encoder,
                "holdfast_process_cpu_seconds",
                "Processor time, user and system",
                &used,
            )?;
        }

        let gauges = [
            ("holdfast_process_open_fds", "Open file descriptors", open_files()),
            ("holdfast_process_max_fds", "Soft limit of open file descriptors", open_files_limit()),
            ("holdfast_process_resident_memory_bytes", "Resident memory", resident_bytes()),
            ("holdfast_process_tasks", "Asynchronous tasks that have not ended", tasks()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encode_metric(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

/// Processor time of all threads of the process, ended ones included (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID).
fn cpu_time() -> Option<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(Duration::from(time))
}

/// Tasks of the runtime that answers the scrape.
fn tasks() -> Option<u64> {
    let alive = tokio::runtime::Handle::try_current().ok()?.metrics().num_alive_tasks();
    u64::try_from(alive).ok()
}

/// Reading the directory opens one descriptor, which is not counted.
fn open_files() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(open).ok()?.checked_sub(1)
}

fn open_files_limit() -> Option<u64> {
    parse_open_files_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

/// The soft limit (proc(5), `/proc/pid/limits`). `None` when there is no limit.
fn parse_open_files_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_bytes() -> Option<u64> {
    parse_resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS` is in units of 1024 bytes whatever the size of a page is (proc(5), `/proc/pid/status`).
fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_limits_and_status_are_parsed() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max cpu time              unlimited            unlimited            seconds   \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(parse_open_files_limit(limits), Some(1024));
        assert_eq!(
            parse_open_files_limit(
                "Max open files            unlimited            unlimited            files"
            ),
            None
        );
        assert_eq!(parse_open_files_limit(""), None);
        assert_eq!(parse_resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(parse_resident_bytes("VmRSS:\t-1 kB"), None);
        assert_eq!(parse_resident_bytes(&format!("VmRSS:\t{} kB", u64::MAX)), None);
        assert_eq!(parse_resident_bytes(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_values_are_plausible() {
        let before = open_files().unwrap();
        let _files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(open_files().unwrap() >= before.max(100), "{before}");
        assert!(resident_bytes().unwrap() > 100 << 10);
        assert!(open_files_limit() > Some(100));
        assert!(cpu_time().unwrap() > Duration::ZERO);
    }

    #[tokio::test]
    async fn tasks_are_counted_until_they_end() {
        let before = tasks().unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        assert_eq!(tasks(), Some(before + 1));
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(tasks(), Some(before));
    }
}
