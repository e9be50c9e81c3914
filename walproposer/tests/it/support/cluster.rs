//! [`TestCluster`]: a scripted primary with its WAL, and real safekeepers. The start of most tests.

use safekeeper::Retention;
use tempfile::TempDir;
use wal_format::WalBuilder;
use wal_types::Lsn;

use super::primary::{ScriptedPrimary, builder};
use super::safekeepers::{LINEAGE_START, Safekeepers};
use super::walproposer::Walproposer;

/// A primary, its WAL and its safekeepers.
pub(crate) struct TestCluster {
    pub(crate) primary: ScriptedPrimary,
    pub(crate) safekeepers: Safekeepers,
    pub(crate) wal: WalBuilder,
}

impl TestCluster {
    /// Starts a primary without WAL, and safekeepers 1 to `safekeepers` with an empty log.
    pub(crate) async fn start(safekeepers: u64) -> Self {
        Self::start_with(safekeepers, Retention::default()).await
    }

    /// Starts it with other limits of old WAL.
    pub(crate) async fn start_with(safekeepers: u64, retention: Retention) -> Self {
        Self::start_from(Safekeepers::create_with(safekeepers, retention).await).await
    }

    /// Starts it with three safekeepers in this directory: `sk1`, `sk2` and `sk3`.
    pub(crate) async fn start_in(directory: TempDir) -> Self {
        Self::start_from(Safekeepers::create_in(directory, 3, Retention::default()).await).await
    }

    async fn start_from(safekeepers: Safekeepers) -> Self {
        Self {
            primary: ScriptedPrimary::start(LINEAGE_START).await,
            safekeepers,
            wal: builder(LINEAGE_START),
        }
    }

    /// Starts a walproposer between the two.
    pub(crate) async fn start_walproposer(&self) -> Walproposer {
        Walproposer::start(&self.primary, self.safekeepers.cluster()).await
    }

    /// Starts a walproposer with less WAL in memory.
    pub(crate) async fn start_walproposer_with_buffer(&self, send_buffer_bytes_max: u64) -> Walproposer {
        Walproposer::start_with_buffer(&self.primary, self.safekeepers.cluster(), send_buffer_bytes_max).await
    }

    /// Flushes a record of this size on the primary, and returns the end of its WAL.
    pub(crate) fn write(&mut self, record_bytes: usize) -> Lsn {
        self.primary.write(&self.wal.noop(record_bytes).bytes)
    }

    /// Flushes several records of this size, and returns the end of the primary's WAL.
    pub(crate) fn write_many(&mut self, records: usize, record_bytes: usize) -> Lsn {
        (0..records).map(|_| self.write(record_bytes)).last().unwrap()
    }

    /// Flushes a record, and waits until it is acknowledged.
    pub(crate) async fn write_acknowledged(&mut self, record_bytes: usize) -> Lsn {
        let end = self.write(record_bytes);
        self.primary.until_acknowledged(end).await;
        end
    }

    /// Flushes a record, and waits until each running safekeeper has it.
    pub(crate) async fn write_flushed(&mut self, record_bytes: usize) -> Lsn {
        let end = self.write(record_bytes);
        self.safekeepers.until_all_flushed(end).await;
        end
    }

    /// Kills the primary, waits until `walproposer` notices, and starts it again. Forgets its last status update.
    pub(crate) async fn restart_primary(&self, walproposer: &Walproposer) {
        self.primary.kill().await;
        walproposer.until_blocked("primary is down").await;
        self.primary.change(|server| server.status = None);
        self.primary.restart().await;
    }

    /// Fails unless safekeepers `nodes` have committed the very bytes of the primary.
    pub(crate) async fn assert_same_wal(&self, nodes: impl IntoIterator<Item = u64>) {
        let server = self.primary.read();
        for node in nodes {
            let stored = self.safekeepers.wal(node, server.flush_lsn()).await;
            assert!(stored == *server.wal, "safekeeper {node} has other bytes than the primary");
        }
    }

    /// Fails if anything was acknowledged to the primary.
    pub(crate) fn assert_nothing_acknowledged(&self) {
        let statuses = self.primary.read().statuses;
        assert!(statuses.iter().all(|status| status.flush == Lsn::INVALID), "acknowledged: {statuses:?}");
    }
}
