//! Closing messages that connections of proposers and of readers share.

use postgres_backend::QueryError;
use pq_proto::{ErrorResponse, SqlState};

use crate::shard::ShardEnded;

/// The safekeeper is shutting down. The words are those of PostgreSQL.
pub(crate) fn shutting_down() -> ErrorResponse {
    ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// The shard of the timeline has ended.
pub(crate) fn shard_ended(error: ShardEnded) -> QueryError {
    ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()).into()
}
