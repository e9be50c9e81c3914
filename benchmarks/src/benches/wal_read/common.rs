//! What the parts of `wal-read` share: quantities, sizes, and WAL that a PostgreSQL writes.

use anyhow::Result;
use test_runner::postgres::Postgres;
use wal_types::Lsn;

use crate::quantity::Quantity;

pub(super) const RATE: Quantity = Quantity::higher("throughput", "MB/s");
pub(super) const OURS: &str = "ours";
pub(super) const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;
pub(super) const MIB: u64 = 1024 * 1024;
/// WAL of one message that fills PostgreSQL's log.
const MESSAGE_BYTES: u64 = 8 * 1024;

/// Lets PostgreSQL write WAL that changes no table, and waits until it is on disk. Returns its end.
pub(super) async fn write_wal(postgres: &Postgres, bytes: u64) -> Result<Lsn> {
    let messages = bytes / MESSAGE_BYTES;
    let write = format!(
        "SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', {MESSAGE_BYTES}))) FROM generate_series(1, {messages})"
    );
    postgres.ask("postgres", &write).await?;
    // Commits, and with that flushes.
    postgres.ask("postgres", "SELECT pg_logical_emit_message(true, 'bench', 'end')").await?;
    Ok(postgres.ask("postgres", "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
}
