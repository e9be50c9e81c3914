//! [`DonorStream`]: reads WAL for a lagging safekeeper from another one that has it, the donor.
//!
//! The donor serves all WAL that it has flushed, committed or not, to a reader that names the current term, and ends the
//! stream as soon as its term changes. The proposer decides which part is read and when
//! ([`consensus::Proposer::poll_fetch`]). Called by `campaign`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postgres_backend::Io;
use postgres_backend::client::{Client, ClientCopyMessage, ClientError};
use pq_proto::SqlState;
use pq_proto::replication::FromPrimary;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wal_types::{Lsn, NodeId, Term};

use crate::config::{Cluster, SafekeeperAddress};
use crate::safekeeper_client;

/// Pieces that may wait for the campaign; each has up to 128 KiB.
const DONOR_QUEUE_PIECES_MAX: usize = 16;
/// Longest message of a donor.
const DONOR_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// A live donor sends a keepalive each second. A silent one is given up, so that another donor can be read.
const DONOR_SILENCE_MAX: Duration = Duration::from_secs(5);

/// The part of a log to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalRange {
    pub(crate) from: Lsn,
    pub(crate) until: Lsn,
    /// Term of the reader.
    pub(crate) term: Term,
}

/// One piece of WAL and its position, or the error that ended the stream.
pub(crate) type WalPiece = Result<(Lsn, Bytes), DonorFailure>;

/// Why a donor gave no more WAL.
#[derive(Debug)]
pub(crate) struct DonorFailure {
    pub(crate) reason: String,
    /// The donor has removed the WAL that was asked for.
    pub(crate) removed: bool,
}

/// A running read of WAL from a donor. Dropping it ends the read.
#[derive(Debug)]
pub(crate) struct DonorStream {
    /// The safekeeper that the WAL is read from.
    pub(crate) donor: NodeId,
    pub(crate) pieces: mpsc::Receiver<WalPiece>,
    _reader: JoinSet<()>,
}

impl DonorStream {
    /// Begins to read `range` from the safekeeper at `donor`.
    pub(crate) fn start(cluster: Arc<Cluster>, donor: SafekeeperAddress, range: WalRange) -> Self {
        let (sender, pieces) = mpsc::channel(DONOR_QUEUE_PIECES_MAX);
        let id = donor.id;

        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let reading = async {
                let client = safekeeper_client::connect(&cluster, &donor).await?;
                read(client, range, &sender).await
            };
            if let Err(error) = reading.await {
                let reason = format!("cannot read WAL from safekeeper {}: {error}", donor.id);
                let _ = sender.send(Err(DonorFailure { reason, removed: error.is_removed() })).await;
            }
        });
        Self { donor: id, pieces, _reader: reader }
    }
}

/// Reason for which a read from a donor ended early.
#[derive(Debug, Error)]
enum DonorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the donor's WAL continues at {got} instead of {expected}")]
    Gap { expected: Lsn, got: Lsn },
    #[error("the donor ended the stream at {0}")]
    Ended(Lsn),
    #[error("no message from the donor for {} s", DONOR_SILENCE_MAX.as_secs())]
    Silent,
}

impl DonorError {
    /// True when the donor says that it has removed the WAL.
    fn is_removed(&self) -> bool {
        let Self::Client(ClientError::Server(error)) = self else { return false };
        error.sqlstate == SqlState::UNDEFINED_FILE
    }
}

/// Reads `range` to its end, or until the receiver of the pieces is gone.
async fn read<S: Io>(
    client: Client<S>,
    range: WalRange,
    pieces: &mpsc::Sender<WalPiece>,
) -> Result<(), DonorError> {
    let command = format!("START_REPLICATION PHYSICAL {} (term='{}')", range.from, range.term);
    let mut copy = within_silence_limit(client.copy_both(&command)).await?;
    let mut at = range.from;

    while at < range.until {
        let payload = match within_silence_limit(copy.reader.next(DONOR_MESSAGE_BYTES_MAX)).await? {
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
        at = next;
    }
    Ok(())
}

/// Waits for an answer of the donor, for at most [`DONOR_SILENCE_MAX`].
async fn within_silence_limit<T>(
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, DonorError> {
    Ok(timeout(DONOR_SILENCE_MAX, answer).await.map_err(|_| DonorError::Silent)??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_server;
    use bytes::BytesMut;
    use pq_proto::BackendMessage;
    use pq_proto::backend::CopyFormat;
    use pq_proto::replication::{PrimaryKeepalive, XLogData};
    use tokio::time::Instant;

    const RANGE: WalRange = WalRange { from: Lsn(100), until: Lsn(200), term: Term(3) };
    /// No read takes this long unless it hangs.
    const DEADLINE: Duration = Duration::from_secs(600);

    fn payload(item: &FromPrimary) -> BackendMessage {
        let mut payload = BytesMut::new();
        item.encode(&mut payload);
        BackendMessage::CopyData(payload.freeze())
    }

    fn keepalive() -> BackendMessage {
        payload(&FromPrimary::Keepalive(PrimaryKeepalive {
            server_end: Lsn(200),
            sent_at_micros: 0,
            reply_requested: false,
        }))
    }

    fn wal(start: u64, length: usize) -> BackendMessage {
        payload(&FromPrimary::XLogData(XLogData {
            start: Lsn(start),
            server_end: Lsn(200),
            sent_at_micros: 0,
            data: vec![7; length].into(),
        }))
    }

    /// Reads from a donor that sends one of `messages` every four seconds, and then nothing. Returns the result of the
    /// read, its duration, and the end of the WAL that was read.
    async fn read_from(messages: &[BackendMessage]) -> (Result<(), DonorError>, Duration, Lsn) {
        let (client, mut server) = scripted_server::client().await;
        let (sender, mut pieces) = mpsc::channel(DONOR_QUEUE_PIECES_MAX);
        let started = Instant::now();
        let send_all = async {
            for message in messages {
                scripted_server::send(&mut server, std::slice::from_ref(message)).await;
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            // The connection stays open.
            std::future::pending::<()>().await;
        };

        let ended = tokio::select! {
            ended = timeout(DEADLINE, read(client, RANGE, &sender)) => ended.expect("the read hangs"),
            () = send_all => unreachable!(),
        };

        let mut end = RANGE.from;
        while let Ok(Ok((at, wal))) = pieces.try_recv() {
            assert_eq!(at, end);
            end = at.advance(wal.len() as u64);
        }
        (ended, started.elapsed(), end)
    }

    #[tokio::test(start_paused = true)]
    async fn donor_stream_ends_when_donor_is_silent() {
        let opened = BackendMessage::CopyBothResponse(CopyFormat::default());
        let table: &[(&[BackendMessage], u64, u64)] = &[
            (&[], 5, 100),
            (std::slice::from_ref(&opened), 5, 100),
            (&[opened.clone(), wal(100, 10)], 4 + 5, 110),
            (&[opened.clone(), wal(100, 10), keepalive(), keepalive()], 12 + 5, 110),
        ];
        for (messages, seconds, end) in table {
            let (ended, elapsed, read_up_to) = read_from(messages).await;
            assert!(matches!(ended, Err(DonorError::Silent)), "{messages:?}: {ended:?}");
            assert_eq!((elapsed.as_secs(), read_up_to), (*seconds, Lsn(*end)), "{messages:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn donor_stream_reads_slow_donor_to_end() {
        let opened = BackendMessage::CopyBothResponse(CopyFormat::default());
        let messages = [opened, wal(100, 50), keepalive(), keepalive(), wal(150, 70)];
        let (ended, _, end) = read_from(&messages).await;
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(end, RANGE.until);
    }
}
