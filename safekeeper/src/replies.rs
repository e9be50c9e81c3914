//! Replies to the commands that only read: each a function of a snapshot.
//!
//! The columns and their types are those that stock clients of PostgreSQL 15 to 18 were seen to get from a real server
//! (PostgreSQL documentation, "Streaming Replication Protocol"). Pure; called by `session`.

use bytes::Bytes;
use consensus::{Dialect, TliSwitch};
use postgres_backend::ResultSet;
use pq_proto::{ErrorResponse, FieldDescription, SqlState};
use wal_store::Snapshot;
use wal_types::{Lsn, Tli};

use crate::pg_timelines::PgTimelines;
use crate::slots::Slot;
use crate::start_history::StartHistory;

/// Version that is shown while that of the cluster is unknown. Every client supports a server of this age.
const SERVER_VERSION_UNKNOWN: &str = "14.1";

/// `server_version` of the cluster, for example `15.18`.
pub(crate) fn server_version(pg_version: u32) -> String {
    match pg_version {
        0 => SERVER_VERSION_UNKNOWN.to_owned(),
        known => format!("{}.{}", known / 10_000, known % 10_000),
    }
}

/// Name of a dialect in HTTP and in error messages.
pub(crate) const fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Neon => "neon",
        Dialect::Holdfast => "holdfast",
    }
}

/// The PostgreSQL timelines up to the commit position.
pub(crate) fn committed_timelines(snapshot: &Snapshot, past: &StartHistory) -> PgTimelines {
    PgTimelines::new(snapshot.lineage.start_tli, past, &snapshot.tli_switches, snapshot.commit_lsn)
}

/// `IDENTIFY_SYSTEM`. The position is the commit position: a reader gets WAL up to there.
pub(crate) fn identify_system(snapshot: &Snapshot, past: &StartHistory) -> ResultSet {
    // PostgreSQL 16 made the number wider.
    let timeline = if snapshot.lineage.pg_major() >= 16 {
        FieldDescription::int8("timeline")
    } else {
        FieldDescription::int4("timeline")
    };
    let columns = vec![
        FieldDescription::text("systemid"),
        timeline,
        FieldDescription::text("xlogpos"),
        FieldDescription::text("dbname"),
    ];
    let values = [
        Some(snapshot.lineage.system_id.to_string()),
        Some(committed_timelines(snapshot, past).current().to_string()),
        Some(snapshot.commit_lsn.to_string()),
        None,
    ];
    row(columns, values, "IDENTIFY_SYSTEM")
}

/// `SHOW name`.
pub(crate) fn show(name: &str, snapshot: &Snapshot) -> Result<ResultSet, ErrorResponse> {
    let version = snapshot.lineage.pg_version;
    let value = match name {
        "wal_segment_size" => bytes_with_unit(snapshot.lineage.segment_size.bytes()),
        "server_version" => server_version(version),
        "server_version_num" if version != 0 => version.to_string(),
        "data_directory_mode" => "0700".to_owned(),
        "wal_level" => "replica".to_owned(),
        "block_size" | "wal_block_size" => "8192".to_owned(),
        "in_hot_standby" | "is_superuser" => "off".to_owned(),
        "integer_datetimes" | "standard_conforming_strings" | "fsync" | "full_page_writes" => "on".to_owned(),
        "client_encoding" | "server_encoding" => "UTF8".to_owned(),
        "datestyle" => "ISO, MDY".to_owned(),
        "timezone" => "UTC".to_owned(),
        _ => {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            return Err(ErrorResponse::error(SqlState::UNDEFINED_OBJECT, message));
        }
    };
    Ok(row(vec![FieldDescription::text(name)], [Some(value)], "SHOW"))
}

/// `READ_REPLICATION_SLOT`. A slot that does not exist is a row of NULLs, of which clients make an error.
pub(crate) fn read_replication_slot(
    slot: Option<&Slot>,
    snapshot: &Snapshot,
    past: &StartHistory,
) -> ResultSet {
    let columns = vec![
        FieldDescription::text("slot_type"),
        FieldDescription::text("restart_lsn"),
        FieldDescription::int8("restart_tli"),
    ];
    let restart_lsn = slot.map(|slot| slot.restart_lsn).filter(|lsn| lsn.is_valid());
    let values = [
        slot.map(|_| "physical".to_owned()),
        restart_lsn.map(|lsn| lsn.to_string()),
        restart_lsn.map(|lsn| committed_timelines(snapshot, past).at(lsn).to_string()),
    ];
    row(columns, values, "READ_REPLICATION_SLOT")
}

/// Columns of `CREATE_REPLICATION_SLOT`.
pub(crate) fn create_replication_slot_columns() -> Vec<FieldDescription> {
    let columns = ["slot_name", "consistent_point", "snapshot_name", "output_plugin"];
    columns.into_iter().map(FieldDescription::text).collect()
}

/// `CREATE_REPLICATION_SLOT`.
pub(crate) fn create_replication_slot(slot: &str) -> ResultSet {
    let values = [Some(slot.to_owned()), Some(Lsn::INVALID.to_string()), None, None];
    row(create_replication_slot_columns(), values, "CREATE_REPLICATION_SLOT")
}

/// `TIMELINE_HISTORY`.
pub(crate) fn timeline_history(
    tli: Tli,
    snapshot: &Snapshot,
    past: &StartHistory,
) -> Result<ResultSet, ErrorResponse> {
    let (name, content) = committed_timelines(snapshot, past).history_file(tli).ok_or_else(|| {
        let message = format!("this log has no history file of timeline {tli}");
        ErrorResponse::error(SqlState::UNDEFINED_FILE, message)
    })?;
    let columns = vec![FieldDescription::text("filename"), FieldDescription::text("content")];
    Ok(row(columns, [Some(name), Some(content)], "TIMELINE_HISTORY"))
}

/// `TIMELINE_STATUS`; no row when the timeline does not exist here.
pub(crate) fn timeline_status(snapshot: Option<&Snapshot>) -> ResultSet {
    let columns = vec![FieldDescription::text("flush_lsn"), FieldDescription::text("commit_lsn")];
    match snapshot {
        Some(snapshot) => {
            let values = [Some(snapshot.flush_lsn.to_string()), Some(snapshot.commit_lsn.to_string())];
            row(columns, values, "TIMELINE_STATUS")
        }
        None => ResultSet { columns, rows: Vec::new(), tag: "TIMELINE_STATUS".into() },
    }
}

/// End of START_REPLICATION at the end of a PostgreSQL timeline: names the next one and where it begins.
pub(crate) fn next_timeline(switch: &TliSwitch) -> Vec<ResultSet> {
    let columns = vec![FieldDescription::int8("next_tli"), FieldDescription::text("next_tli_startpos")];
    let values = [Some(switch.tli.to_string()), Some(switch.at.to_string())];
    vec![row(columns, values, "START_STREAMING"), ResultSet::tag("START_REPLICATION")]
}

/// End of START_REPLICATION when the reader ends the copy.
pub(crate) fn streaming_ended() -> Vec<ResultSet> {
    vec![ResultSet::tag("START_STREAMING"), ResultSet::tag("START_REPLICATION")]
}

fn row<const N: usize>(
    columns: Vec<FieldDescription>,
    values: [Option<String>; N],
    tag: &'static str,
) -> ResultSet {
    let values = values.into_iter().map(|value| value.map(Bytes::from)).collect();
    ResultSet { columns, rows: vec![values], tag: tag.into() }
}

/// The largest unit that divides the size, as PostgreSQL shows it (PostgreSQL documentation, "Parameter Names and
/// Values").
fn bytes_with_unit(bytes: u32) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"), (1, "B")];
    let (size, unit) = units.into_iter().find(|(size, _)| bytes.is_multiple_of(*size)).unwrap_or((1, "B"));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_unit_matches_postgresql() {
        for (bytes, text) in [(16 << 20, "16MB"), (1 << 30, "1GB"), (64 << 10, "64kB"), (1 << 20, "1MB")] {
            assert_eq!(bytes_with_unit(bytes), text);
        }
    }

    #[test]
    fn server_version_matches_postgresql() {
        for (number, text) in [(150_018, "15.18"), (180_004, "18.4"), (140_000, "14.0"), (0, "14.1")] {
            assert_eq!(server_version(number), text);
        }
    }
}
