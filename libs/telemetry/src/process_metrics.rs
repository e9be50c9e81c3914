//! What every process tells of itself, under the names that Prometheus clients agree on
//! (Prometheus documentation, "Writing client libraries", process metrics).
//!
//! Read anew at each scrape. What the system does not tell is left out; a scrape never fails for it.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
pub(crate) struct ProcessCollector {
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
        put(&mut encoder, "process_start_time_seconds", "Start, in seconds since 1970", &started)?;
        if let Some(spent) = cpu_time() {
            let spent = ConstCounter::new(spent.as_secs_f64());
            put(&mut encoder, "process_cpu_seconds", "Processor time, user and system", &spent)?;
        }
        if let Some(open) = open_files() {
            put(&mut encoder, "process_open_fds", "Open file descriptors", &ConstGauge::new(open))?;
        }
        if let Some(limit) =
            fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(open_files_limit)
        {
            put(&mut encoder, "process_max_fds", "Limit of open file descriptors", &ConstGauge::new(limit))?;
        }
        if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes)
        {
            put(&mut encoder, "process_resident_memory_bytes", "Memory in use", &ConstGauge::new(bytes))?;
        }
        if let Some(alive) = tasks() {
            put(
                &mut encoder,
                "process_tasks",
                "Asynchronous tasks that have not ended",
                &ConstGauge::new(alive),
            )?;
        }
        Ok(())
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    // The registry adds the full stop to the help of its own metrics, but not to that of a collector.
    metric.encode(encoder.encode_descriptor(name, &format!("{help}."), None, metric.metric_type())?)
}

fn cpu_time() -> Option<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(Duration::from(time))
}

/// Of the runtime that answers the scrape.
fn tasks() -> Option<u64> {
    let alive = tokio::runtime::Handle::try_current().ok()?.metrics().num_alive_tasks();
    u64::try_from(alive).ok()
}

/// Counts itself out: reading the directory opens one.
fn open_files() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(open).ok()?.checked_sub(1)
}

/// The soft limit (proc(5), `/proc/pid/limits`). `None` when there is no limit.
fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `VmRSS` is in units of 1024 bytes whatever the size of a page is (proc(5), `/proc/pid/status`).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_status_are_read_as_the_manual_says() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max cpu time              unlimited            unlimited            seconds   \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(
            open_files_limit("Max open files            unlimited            unlimited            files"),
            None
        );
        assert_eq!(open_files_limit(""), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident_bytes("VmRSS:\t-1 kB"), None);
        assert_eq!(resident_bytes(&format!("VmRSS:\t{} kB", u64::MAX)), None);
        assert_eq!(resident_bytes(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_plausible_values() {
        let before = open_files().unwrap();
        let _files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(open_files().unwrap() >= before.max(100), "{before}");
        assert!(resident_bytes(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 100 << 10);
        assert!(open_files_limit(&fs::read_to_string("/proc/self/limits").unwrap()) > Some(100));
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
