//! Inspection of one safekeeper that no proposer sends WAL to: compares its state and WAL with what it acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postgres_backend::client::{Client, ClientCopyMessage, ConnectOptions};
use pq_proto::replication::FromPrimary;
use test_runner::cluster::Cluster;
use test_runner::wire::{ReportedState, Tap};
use wal_types::{Lsn, Term};

/// Time limit for the connection that reads the log.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for reading the log.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Length limit of a replication message.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes below the last compared position that are compared again: damage is most likely right below the end.
const COMPARED_AGAIN_BYTES: u64 = 1 << 20;

/// Result of an inspection that found no violation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspection {
    /// Id of the safekeeper.
    pub(crate) id: u64,
    /// The position that it acknowledged.
    pub(crate) acknowledged: Lsn,
    /// The flush LSN that it reports.
    pub(crate) flush: Lsn,
    /// Bytes of WAL that were read back and compared.
    pub(crate) compared_bytes: u64,
}

/// Checks that a safekeeper has what it acknowledged. `compared`: the position up to which its bytes were compared
/// before.
pub(crate) async fn inspect(cluster: &Cluster, id: u64, tap: &Tap, compared: Lsn) -> Result<Inspection> {
    let (tenant, timeline) = (&cluster.state.tenant_id, &cluster.state.timeline_id);
    let status = cluster.safekeeper(id)?.timeline(tenant, timeline).await?;
    ensure!(status.health == "healthy", "sk{id} is {}", status.health);
    let reported = ReportedState {
        term: Term(status.term),
        flush: status.flush_lsn.parse()?,
        commit: status.commit_lsn.parse()?,
    };
    let ledger = tap.record().ledger().clone();
    let violations = ledger.violations(reported);
    if !violations.is_empty() {
        bail!("sk{id} lost what it acknowledged: {} ({ledger:?}, {reported:?})", violations.join("; "));
    }

    let acknowledged = ledger.acknowledged();
    let mut found = Inspection { id, acknowledged, flush: reported.flush, compared_bytes: 0 };
    if let Some(base) = ledger.base() {
        let again = Lsn(ledger.changed_from(compared).0.saturating_sub(COMPARED_AGAIN_BYTES));
        let from = again.max(base);
        if from < acknowledged {
            let read = read_log(cluster, id, reported.term, from, acknowledged);
            let read =
                tokio::time::timeout(READ_TIMEOUT, read).await.context("the log was not read in time")?;
            let bytes = read.with_context(|| format!("reading the log of sk{id}"))?;
            if let Some(at) = tap.record().difference(from, &bytes)? {
                bail!("sk{id} has other bytes at {at} than it acknowledged ({ledger:?}, {reported:?})");
            }
            found.compared_bytes = bytes.len() as u64;
        }
    }

    tap.record().change(|ledger| ledger.mark_compared())?;
    Ok(found)
}

/// Reads the bytes `[from, to)` of the log, committed or not, as a proposer of this term would.
async fn read_log(cluster: &Cluster, id: u64, term: Term, from: Lsn, to: Lsn) -> Result<Vec<u8>> {
    let (tenant, timeline) = (&cluster.state.tenant_id, &cluster.state.timeline_id);
    let options = format!("-c tenant_id={tenant} -c timeline_id={timeline}");
    let params = [("replication", "true"), ("options", options.as_str())];
    let options = ConnectOptions {
        host: "127.0.0.1".into(),
        port: cluster.safekeeper(id)?.pg_port,
        user: "chaos".into(),
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        password: None,
        tls: None,
    };

    let client = Client::connect(&options, CONNECT_TIMEOUT).await?;
    let command = format!("START_REPLICATION PHYSICAL {from} (term='{term}')");
    let mut copy = client.copy_both(&command).await?;
    let wanted = usize::try_from(to.bytes_since(from))?;
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let ClientCopyMessage::Data(payload) = copy.reader.next(MESSAGE_BYTES_MAX).await? else {
            bail!("the log ended at {}", from.advance(bytes.len() as u64));
        };
        if let FromPrimary::XLogData(wal) = FromPrimary::decode(payload)? {
            ensure!(wal.start == from.advance(bytes.len() as u64), "missing WAL before {}", wal.start);
            bytes.extend_from_slice(&wal.data);
        }
    }

    bytes.truncate(wanted);
    Ok(bytes)
}
