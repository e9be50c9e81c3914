//! The benches. Each file says what it compares, lists its goals, and measures.

mod codec;
mod many_timelines;
mod proxy_bulk;
mod proxy_idle;
mod proxy_login;
mod proxy_query;
mod wal_append;
mod wal_commit;
mod wal_read;

use crate::bench::Bench;

/// All benches in the order of the document.
pub(crate) const ALL: &[Bench] = &[
    wal_commit::BENCH,
    wal_append::BENCH,
    wal_read::BENCH,
    many_timelines::BENCH,
    proxy_query::BENCH,
    proxy_bulk::BENCH,
    proxy_login::BENCH,
    proxy_idle::BENCH,
    codec::BENCH,
];
