//! [`PrimaryState`]: WAL, settings and history of a scripted primary, and the status updates that it received.

use std::sync::Arc;

use pq_proto::replication::StandbyStatusUpdate;
use pq_proto::{ErrorResponse, SqlState};
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

pub(crate) const SYSTEM_ID: SystemId = SystemId(7_710_999_284_697_415_315);
pub(crate) const SEGMENT_BYTES: u32 = 1024 * 1024;
pub(crate) const PG_VERSION: u32 = 150_018;
/// Longest message with WAL.
const CHUNK_BYTES_MAX: usize = 128 * 1024;

/// What happens to a connection that would read settings by SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingsConnections {
    /// It is served.
    Served,
    /// It is refused, as by `pg_hba.conf`.
    Refused,
    /// Nothing is ever answered.
    Hung,
}

/// State of the scripted primary.
#[derive(Clone, Debug)]
pub(crate) struct PrimaryState {
    pub(crate) tli: Tli,
    pub(crate) start: Lsn,
    pub(crate) wal: Arc<Vec<u8>>,
    pub(crate) slot: bool,
    pub(crate) slot_restart_lsn: Lsn,
    /// Segments without a file: timeline and first byte.
    pub(crate) missing: Vec<(Tli, Lsn)>,
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Roles with a `synchronous_commit` of their own.
    pub(crate) commit_overrides: Vec<(&'static str, &'static str)>,
    /// What happens to a connection that would read settings.
    pub(crate) settings_connections: SettingsConnections,
    pub(crate) history: Option<String>,
    /// The last status update.
    pub(crate) status: Option<StandbyStatusUpdate>,
    /// All status updates.
    pub(crate) statuses: Vec<StandbyStatusUpdate>,
    /// Arguments of each START_REPLICATION.
    pub(crate) streams: Vec<String>,
}

impl PrimaryState {
    /// A primary without WAL from `start` on.
    pub(super) fn new(start: Lsn) -> Self {
        Self {
            tli: Tli::FIRST,
            start,
            wal: Arc::default(),
            slot: true,
            slot_restart_lsn: Lsn(1),
            missing: Vec::new(),
            settings: Vec::new(),
            commit_overrides: Vec::new(),
            settings_connections: SettingsConnections::Served,
            history: None,
            status: None,
            statuses: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// Value of a setting.
    pub(super) fn setting(&self, name: &str) -> &'static str {
        let defaults = [
            ("in_hot_standby", "off"),
            ("wal_level", "replica"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("wal_segment_size", "1MB"),
            ("server_version_num", "150018"),
            ("synchronous_commit", "on"),
            ("synchronous_standby_names", "FIRST 1 (wp)"),
        ];
        let value = self.settings.iter().chain(&defaults).find(|(known, _)| *known == name);
        value.unwrap_or_else(|| panic!("SHOW {name}")).1
    }

    pub(crate) fn flush_lsn(&self) -> Lsn {
        self.start.advance(self.wal.len() as u64)
    }

    /// Position at which `tli` was left, if it is no longer the server's timeline. The history has one line.
    pub(super) fn fork(&self, tli: Tli) -> Option<Lsn> {
        let history = self.history.as_ref().filter(|_| tli < self.tli)?;
        Some(history.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// WAL from `at` on and below `end`, of one segment and at most one message; an error when its segment is missing.
    pub(super) fn piece(&self, tli: Tli, at: Lsn, end: Lsn) -> Result<Vec<u8>, ErrorResponse> {
        let segment_bytes = u64::from(SEGMENT_BYTES);
        let segment = at.0 / segment_bytes;
        if self.missing.contains(&(tli, Lsn(segment * segment_bytes))) {
            let message =
                format!("requested WAL segment {segment} of timeline {tli} has already been removed");
            return Err(ErrorResponse::error(SqlState::UNDEFINED_FILE, message));
        }
        let end = end.min(at.advance(CHUNK_BYTES_MAX as u64)).min(Lsn((segment + 1) * segment_bytes));
        let index = |lsn: Lsn| usize::try_from(lsn.bytes_since(self.start)).unwrap();
        Ok(self.wal[index(at)..index(end)].to_vec())
    }
}

/// Builder of WAL of the scripted cluster, from `at` on.
pub(crate) fn builder(at: Lsn) -> WalBuilder {
    builder_on(Tli::FIRST, at, Lsn::INVALID)
}

/// Builder of WAL on another timeline, behind a record that begins at `prev`.
pub(crate) fn builder_on(tli: Tli, at: Lsn, prev: Lsn) -> WalBuilder {
    let segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
    let context = ScanContext { segment_size, system_id: SYSTEM_ID };
    WalBuilder::new(context, PageMagic::POSTGRES_15, tli, at, prev)
}
