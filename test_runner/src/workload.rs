//! Workload: clients insert rows and record which ones PostgreSQL acknowledged.
//!
//! A row is a client number and a sequence number. It counts as acknowledged when COMMIT has returned without a
//! warning. A row without an answer is unknown, and its number is not used again.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::{clients, wait};

/// Time between two attempts to connect to a server that is down.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// Rows by (client, sequence number).
pub type Rows = BTreeSet<(i32, i64)>;

/// Clients that insert rows until they are stopped.
#[derive(Debug)]
pub struct Workload {
    clients: Vec<JoinHandle<Rows>>,
    count: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

impl Workload {
    /// Creates the table, then starts `clients` that insert rows with `payload_bytes` beside the numbers.
    pub async fn start(uri: &str, clients: i32, payload_bytes: usize) -> Result<Self> {
        Self::make_table(uri).await?;
        Self::resume(uri, clients, payload_bytes, 0)
    }

    /// Creates the table.
    pub async fn make_table(uri: &str) -> Result<()> {
        let table = "CREATE TABLE acknowledged (client int, sequence bigint, payload text, PRIMARY KEY (client, sequence))";
        Ok(clients::connect(uri).await?.batch_execute(table).await?)
    }

    /// Starts clients on an existing table. Sequence numbers begin above `first`, so that none is used twice.
    pub fn resume(uri: &str, clients: i32, payload_bytes: usize, first: i64) -> Result<Self> {
        Self::resume_and_report(uri, clients, payload_bytes, first, None)
    }

    /// As [`Workload::resume`]; each acknowledged row is also sent to `reports`.
    pub fn resume_and_report(
        uri: &str,
        clients: i32,
        payload_bytes: usize,
        first: i64,
        reports: Option<mpsc::Sender<(i32, i64)>>,
    ) -> Result<Self> {
        let count = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let start = |client| {
            let (uri, reports) = (uri.to_owned(), reports.clone());
            let writer = Writer { uri, client, payload_bytes, count: count.clone(), reports };
            tokio::spawn(writer.write_until(stopped.clone(), first))
        };
        Ok(Self { clients: (1..=clients).map(start).collect(), count: count.clone(), stop })
    }

    /// Number of acknowledged rows so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until `rows` more rows are acknowledged.
    pub async fn wait_for_more(&self, rows: u64, within: Duration) -> Result<()> {
        let goal = self.count() + rows;
        let what = format!("{rows} more acknowledged rows");
        wait::until(&what, within, async || Ok((self.count() >= goal).then_some(()))).await
    }

    /// Stops the clients and returns the acknowledged rows. Rows that wait for their acknowledgement stay unknown.
    pub async fn stop(self) -> Result<Rows> {
        self.stop.send_replace(true);
        let mut all = Rows::new();
        for client in self.clients {
            all.extend(client.await.context("a writing client panicked")?);
        }
        Ok(all)
    }
}

/// One client.
struct Writer {
    uri: String,
    client: i32,
    payload_bytes: usize,
    count: Arc<AtomicU64>,
    reports: Option<mpsc::Sender<(i32, i64)>>,
}

impl Writer {
    async fn write_until(self, mut stopped: watch::Receiver<bool>, first: i64) -> Rows {
        let (mut acknowledged, mut sequence) = (Rows::new(), first);
        // Dropped in the middle of a COMMIT, the row stays unknown: it is not among the acknowledged ones.
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.write(&mut acknowledged, &mut sequence) => {}
        }
        acknowledged
    }

    async fn write(&self, acknowledged: &mut Rows, sequence: &mut i64) {
        loop {
            if let Ok((client, warned)) = connect(&self.uri).await {
                while self.insert(&client, &warned, sequence).await {
                    acknowledged.insert((self.client, *sequence));
                    if let Some(reports) = &self.reports {
                        // The receiver may be gone.
                        let _ = reports.send((self.client, *sequence));
                    }
                    self.count.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Inserts one row. True when PostgreSQL acknowledged it without a warning.
    async fn insert(&self, client: &Client, warned: &AtomicBool, sequence: &mut i64) -> bool {
        *sequence += 1;
        let insert = format!(
            "INSERT INTO acknowledged VALUES ({}, {sequence}, repeat('x', {}))",
            self.client, self.payload_bytes
        );
        client.batch_execute(&insert).await.is_ok() && !warned.load(Ordering::Relaxed)
    }
}

/// A connection, and a flag that is set when the server sends a notice: a COMMIT whose wait for the quorum was
/// cancelled succeeds with a warning.
async fn connect(uri: &str) -> Result<(Client, Arc<AtomicBool>)> {
    let (client, mut connection) = tokio_postgres::connect(uri, NoTls).await?;
    let warned = Arc::new(AtomicBool::new(false));
    let noted = warned.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, AsyncMessage::Notice(_)) {
                noted.store(true, Ordering::Relaxed);
            }
        }
    });
    Ok((client, warned))
}
