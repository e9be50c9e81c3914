//! [`Primary`]: a replication connection to the primary that waits for commands. [`WalStream`]: the same connection while
//! it streams (PostgreSQL documentation, "Streaming Replication Protocol").
//!
//! Refuses servers whose commits cannot depend on a quorum. Whether the primary's WAL continues the log is decided in
//! `candidacy`. Called by `leadership`.

mod commands;
mod error;
mod settings;
mod stream;

use std::time::Duration;

use candidacy::PrimaryPosition;
use postgres_backend::client::Client;
use tokio::time::{MissedTickBehavior, interval};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

use self::commands::{connect_client, one_row, show, unexpected};
pub(crate) use self::error::PrimaryError;
pub(crate) use self::settings::SettingsReader;
use self::settings::read_by_show;
pub(crate) use self::stream::WalStream;
use crate::config::RunConfig;
use crate::primary_settings::PrimarySettings;

/// While no WAL is streamed, the primary is asked for its position this often, to see that it is still there.
pub(crate) const PRIMARY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Properties of the primary that do not change while the connection lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrimaryFacts {
    pub(crate) system_id: SystemId,
    pub(crate) segment_size: SegmentSize,
    /// `PG_VERSION_NUM`, such as 150018.
    pub(crate) version: u32,
    /// `restart_lsn` of the slot when the connection was opened.
    pub(crate) slot_restart_lsn: Lsn,
}

/// A replication connection that waits for commands.
#[derive(Debug)]
pub(crate) struct Primary {
    client: Client,
    pub(crate) facts: PrimaryFacts,
    /// Settings of the server when the connection was opened, without those of roles and databases.
    pub(crate) settings: PrimarySettings,
}

impl Primary {
    /// Connects, and checks that commits of this server can depend on a quorum.
    pub(crate) async fn connect(config: &RunConfig) -> Result<(Self, PrimaryPosition), PrimaryError> {
        let params = [("replication", "true"), ("application_name", config.application_name.as_str())];
        let mut client = connect_client(config, &params).await?;
        check_settings(&mut client).await?;
        let slot_restart_lsn = check_slot(&mut client, &config.slot).await?;
        let settings = read_by_show(&mut client).await?;

        let (system_id, position) = identify(&mut client).await?;
        let facts = PrimaryFacts {
            system_id,
            segment_size: parse_segment_size(&show(&mut client, "wal_segment_size").await?)
                .ok_or_else(|| unexpected("wal_segment_size"))?,
            version: show(&mut client, "server_version_num")
                .await?
                .parse()
                .map_err(|_| unexpected("server_version_num"))?,
            slot_restart_lsn,
        };
        Ok((Self { client, facts, settings }, position))
    }

    /// The present position of the primary. Fails when the server is gone.
    pub(crate) async fn position(&mut self) -> Result<PrimaryPosition, PrimaryError> {
        Ok(identify(&mut self.client).await?.1)
    }

    /// The content of the history file of a timeline.
    pub(crate) async fn timeline_history(&mut self, tli: Tli) -> Result<String, PrimaryError> {
        let row = one_row(&mut self.client, &format!("TIMELINE_HISTORY {tli}")).await?;
        row.get("content").map(str::to_owned).ok_or_else(|| unexpected("TIMELINE_HISTORY"))
    }

    /// Begins to stream. Until a position is reported, the status updates to the primary say 0/0: nothing is stored.
    pub(crate) async fn stream(self, slot: &str, from: Lsn, tli: Tli) -> Result<WalStream, PrimaryError> {
        WalStream::start(self.client, slot, from, tli).await
    }

    /// Ends a stream, so that its connection takes commands again.
    pub(crate) async fn from_stream(
        stream: WalStream,
        facts: PrimaryFacts,
        settings: PrimarySettings,
    ) -> Result<Self, PrimaryError> {
        Ok(Self { client: stream.finish().await?, facts, settings })
    }
}

/// Returns when the primary has stopped, or is another server than before. Its WAL cannot change otherwise. Cancel-safe.
pub(crate) async fn until_restarted(config: &RunConfig) {
    let Ok((mut primary, first)) = Primary::connect(config).await else { return };
    let mut probe = interval(PRIMARY_PROBE_INTERVAL);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        probe.tick().await;
        match primary.position().await {
            Ok(position) if position.tli == first.tli && position.flush_lsn >= first.flush_lsn => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Checks that this is a primary with durable WAL. The promise of a quorum is worth nothing when the primary itself loses
/// WAL (PostgreSQL documentation, "Write Ahead Log", section "Settings"), and a standby commits nothing of its own.
async fn check_settings(client: &mut Client) -> Result<(), PrimaryError> {
    let unfit: [(&str, &[&str], &str); 4] = [
        ("in_hot_standby", &["off"], "this server is a standby: set --primary to the address of the primary"),
        ("wal_level", &["replica", "logical"], "wal_level must be replica or logical on the primary"),
        (
            "fsync",
            &["on"],
            "fsync is off on the primary: after a crash its WAL could differ from the acknowledged WAL",
        ),
        (
            "full_page_writes",
            &["on"],
            "full_page_writes is off on the primary: a torn page could not be repaired from WAL",
        ),
    ];

    for (name, allowed, sentence) in unfit {
        let value = show(client, name).await?;
        if !allowed.contains(&value.as_str()) {
            return Err(PrimaryError::Unfit(sentence.to_owned()));
        }
    }
    Ok(())
}

/// Checks the replication slot, and returns its `restart_lsn`. Without a slot the primary may recycle WAL that the quorum
/// lacks, and a second walproposer could stream from it.
async fn check_slot(client: &mut Client, slot: &str) -> Result<Lsn, PrimaryError> {
    let create = format!("SELECT pg_create_physical_replication_slot('{slot}', true);");
    let row = one_row(client, &format!("READ_REPLICATION_SLOT \"{slot}\"")).await?;
    if row.get("slot_type").is_none() {
        return Err(PrimaryError::Unfit(format!(
            "replication slot \"{slot}\" does not exist: create it on the primary with {create}"
        )));
    }
    let Some(restart_lsn) = row.get("restart_lsn") else {
        return Err(PrimaryError::Unfit(format!(
            "replication slot \"{slot}\" keeps no WAL (never reserved, or invalidated): drop it and create it with {create}"
        )));
    };
    restart_lsn.parse().map_err(|_| unexpected("READ_REPLICATION_SLOT"))
}

async fn identify(client: &mut Client) -> Result<(SystemId, PrimaryPosition), PrimaryError> {
    let row = one_row(client, "IDENTIFY_SYSTEM").await?;
    let parsed = (|| {
        let position = PrimaryPosition {
            tli: Tli(row.get("timeline")?.parse().ok()?),
            flush_lsn: row.get("xlogpos")?.parse().ok()?,
        };
        Some((SystemId(row.get("systemid")?.parse().ok()?), position))
    })();
    parsed.ok_or_else(|| unexpected("IDENTIFY_SYSTEM"))
}

/// Parses a segment size as SHOW prints it, such as `16MB` (PostgreSQL documentation, "Parameter Names and Values").
pub(crate) fn parse_segment_size(text: &str) -> Option<SegmentSize> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit: u32 = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(digits.parse::<u32>().ok()?.checked_mul(unit)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_size_is_parsed_from_show_output() {
        for (text, expected) in [
            ("16MB", Some(16 << 20)),
            ("1GB", Some(1 << 30)),
            ("64kB", Some(64 << 10)),
            ("16777216", Some(16 << 20)),
            ("1048576B", Some(1 << 20)),
            ("3MB", None),
            ("8GB", None),
            ("MB", None),
            ("", None),
            ("16 MB", None),
            ("16TB", None),
        ] {
            assert_eq!(parse_segment_size(text).map(SegmentSize::bytes), expected, "{text}");
        }
    }
}
