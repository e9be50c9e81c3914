//! Resources of the proxy without clients: descriptors, tasks and memory, read from its metrics.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use test_runner::proxied_postgres::ProxiedPostgres;
use test_runner::wait;

/// Time limit for the end of the last connections.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit of the growth of memory after the first tenth.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// Resources that the proxy holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldResources {
    descriptors: u64,
    tasks: u64,
    memory_bytes: u64,
}

impl HeldResources {
    /// Waits until no client is connected, and descriptors and tasks are as `before`.
    pub(crate) async fn settled(proxied: &ProxiedPostgres, before: Option<&Self>) -> Result<Self> {
        let mut last = None;
        let settled = wait::until("the proxy to hold as much as before", SETTLE_TIMEOUT, async || {
            let (held, open_connections) = Self::now(proxied).await?;
            let is_as_before = before.is_none_or(|before| held.has_same_counts_as(before));
            last = Some(held.clone());
            Ok((open_connections == 0 && is_as_before).then_some(held))
        });
        match settled.await {
            Ok(held) => Ok(held),
            Err(error) => bail!("{error:#}: before {before:?}, now {last:?}"),
        }
    }

    /// The resources now, and the number of open connections.
    async fn now(proxied: &ProxiedPostgres) -> Result<(Self, u64)> {
        let metrics = proxied.http("/metrics").await?;
        let value = |name: &str| -> Result<u64> {
            let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.with_context(|| format!("no metric {name}"))?.parse().with_context(|| name.to_owned())
        };
        let held = Self {
            descriptors: value("holdfast_process_open_fds")?,
            tasks: value("holdfast_process_tasks")?,
            memory_bytes: value("holdfast_process_resident_memory_bytes")?,
        };
        Ok((held, value("holdfast_proxy_open_connections")?))
    }

    fn has_same_counts_as(&self, before: &Self) -> bool {
        (self.descriptors, self.tasks) == (before.descriptors, before.tasks)
    }

    /// True while memory has grown by at most [`GROWTH_BYTES_MAX`].
    pub(crate) fn has_hardly_grown_since(&self, first: &Self) -> bool {
        self.memory_bytes.saturating_sub(first.memory_bytes) <= GROWTH_BYTES_MAX
    }
}

impl fmt::Display for HeldResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, tasks, memory_bytes } = self;
        let mebibytes = *memory_bytes as f64 / f64::from(1 << 20);
        write!(f, "{descriptors} descriptors, {tasks} tasks, {mebibytes:.1} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One more task is too many as well.
    #[test]
    fn held_allows_memory_growth_but_no_descriptor() {
        let before = HeldResources { descriptors: 10, tasks: 5, memory_bytes: 1 << 20 };
        assert!(before.has_same_counts_as(&before));
        assert!(!HeldResources { descriptors: 11, ..before.clone() }.has_same_counts_as(&before));
        assert!(!HeldResources { tasks: 6, ..before.clone() }.has_same_counts_as(&before));
        assert!(HeldResources { memory_bytes: 5 << 20, ..before.clone() }.has_hardly_grown_since(&before));
        assert!(
            !HeldResources { memory_bytes: (5 << 20) + 1, ..before.clone() }.has_hardly_grown_since(&before)
        );
    }
}
