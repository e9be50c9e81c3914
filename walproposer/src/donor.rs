//! [`Donation`]: WAL for a safekeeper that lags, read from another one that has it.
//!
//! The donor serves what it has flushed, committed or not, to a reader that names the current term, and ends the stream
//! as soon as its term changes. Which part is read, and when, is the proposer's to say
//! ([`consensus::Proposer::poll_fetch`]); `campaign` drives this.

use std::sync::Arc;

use bytes::Bytes;
use postgres_backend::client::{ClientCopyMessage, ClientError};
use pq_proto::replication::FromPrimary;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use wal_types::{Lsn, Term};

use crate::config::{Cluster, SafekeeperAddress};
use crate::safekeeper_client;

/// Pieces that may wait for the driver; each has up to 128 KiB.
const DONATION_QUEUE_PIECES_MAX: usize = 16;
/// Longest message of a donor.
const DONOR_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A part of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) from: Lsn,
    pub(crate) until: Lsn,
    /// The term of the reader.
    pub(crate) term: Term,
}

/// A piece, or why there are no more.
pub(crate) type Piece = Result<(Lsn, Bytes), String>;

/// WAL on its way from a donor. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct Donation {
    pub(crate) pieces: mpsc::Receiver<Piece>,
    _reader: JoinSet<()>,
}

impl Donation {
    /// Begins to read `range` from the safekeeper at `donor`; `wake` is notified with each piece.
    pub(crate) fn start(
        cluster: Arc<Cluster>,
        donor: SafekeeperAddress,
        range: Range,
        wake: Arc<Notify>,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(DONATION_QUEUE_PIECES_MAX);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            if let Err(error) = read(&cluster, &donor, range, &sender, &wake).await {
                let _ = sender.send(Err(format!("reading from safekeeper {}: {error}", donor.id))).await;
            }
            drop(sender);
            wake.notify_one();
        });
        Self { pieces, _reader: reader }
    }
}

#[derive(Debug, Error)]
enum DonorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("its WAL begins at {got} instead of {expected}")]
    Gap { expected: Lsn, got: Lsn },
    #[error("it ended the stream at {0}")]
    Ended(Lsn),
}

async fn read(
    cluster: &Cluster,
    donor: &SafekeeperAddress,
    range: Range,
    pieces: &mpsc::Sender<Piece>,
    wake: &Notify,
) -> Result<(), DonorError> {
    let client = safekeeper_client::connect(cluster, donor).await?;
    let command = format!("START_REPLICATION PHYSICAL {} (term='{}')", range.from, range.term);
    let mut copy = client.copy_both(&command).await?;
    let mut at = range.from;
    while at < range.until {
        let payload = match copy.reader.next(DONOR_MESSAGE_BYTES_MAX).await? {
            ClientCopyMessage::Data(payload) => payload,
            ClientCopyMessage::Done => return Err(DonorError::Ended(at)),
        };
        let FromPrimary::XLogData(piece) = FromPrimary::decode(payload).map_err(ClientError::from)? else {
            continue;
        };
        if piece.start != at {
            return Err(DonorError::Gap { expected: at, got: piece.start });
        }
        let wanted = range.until.bytes_since(at).min(piece.data.len() as u64) as usize;
        let wal = piece.data.slice(..wanted);
        let next = at.advance(wal.len() as u64);
        if pieces.send(Ok((at, wal))).await.is_err() {
            return Ok(());
        }
        wake.notify_one();
        at = next;
    }
    Ok(())
}
