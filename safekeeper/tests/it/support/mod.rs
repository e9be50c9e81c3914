//! Support of the tests: a server in this process, a scripted proposer, WAL, and a reader.

mod proposer;
mod server;
mod wal;
mod wal_stream;

use std::time::Duration;

use wal_types::{Lsn, SystemId, TenantTimelineId, TimelineId};

pub(crate) use proposer::Proposer;
pub(crate) use server::{Address, Server, config, timeline_body};
pub(crate) use wal::Wal;
pub(crate) use wal_stream::WalStream;

/// Deadline of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Number of the safekeeper.
pub(crate) const NODE: u64 = 1;
pub(crate) const SYSTEM: SystemId = SystemId(7_710_999_284_697_415_315);
pub(crate) const PG_VERSION: u32 = 150_018;
pub(crate) const SEGMENT_BYTES: u32 = 64 * 1024;
/// Start of the third segment.
pub(crate) const START: Lsn = Lsn(0x2_0000);

/// Longest message that the tests accept.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A timeline with this number in its id.
pub(crate) fn timeline(number: u8) -> TenantTimelineId {
    let tenant = "cf0480929707ee75372337efaa5ecf96".parse().unwrap();
    TenantTimelineId { tenant, timeline: TimelineId([number; 16]) }
}

/// Waits until `check` returns a value; `what` is named when it does not.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "timeout while waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for `future`; `what` is named when it does not end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("timeout while waiting for {what}"))
}
