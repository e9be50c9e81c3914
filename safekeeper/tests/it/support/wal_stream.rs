//! [`WalStream`]: the receiving end of START_REPLICATION.

use postgres_backend::client::{ClientCopyBoth, ClientCopyMessage, ClientError};
use pq_proto::ErrorResponse;
use pq_proto::replication::FromPrimary;
use wal_types::{Lsn, SegmentSize};

use super::{MESSAGE_BYTES_MAX, SEGMENT_BYTES, within};

/// The receiving end of START_REPLICATION.
pub(crate) struct WalStream(pub(crate) ClientCopyBoth);

impl WalStream {
    pub(crate) async fn next(&mut self) -> Result<Option<FromPrimary>, ClientError> {
        match within("WAL", self.0.reader.next(MESSAGE_BYTES_MAX)).await? {
            ClientCopyMessage::Data(payload) => Ok(Some(FromPrimary::decode(payload).unwrap())),
            ClientCopyMessage::Done => Ok(None),
        }
    }

    /// The bytes of `[from, to)`. No byte beyond may come.
    pub(crate) async fn bytes(&mut self, from: Lsn, to: Lsn) -> Vec<u8> {
        let mut wal = Vec::new();
        while from.advance(wal.len() as u64) < to {
            if let Some(FromPrimary::XLogData(data)) = self.next().await.unwrap() {
                assert_eq!(data.start, from.advance(wal.len() as u64), "WAL is missing");
                assert!(data.data.len() <= 128 * 1024);
                let size = SegmentSize::new(SEGMENT_BYTES).unwrap();
                let last = Lsn(data.start.0 + data.data.len() as u64 - 1);
                assert_eq!(
                    size.segment_of(data.start),
                    size.segment_of(last),
                    "a message crosses the end of a segment"
                );
                wal.extend_from_slice(&data.data);
            }
        }
        assert_eq!(from.advance(wal.len() as u64), to, "more WAL than expected");
        wal
    }

    /// The next keepalive; no WAL may come before it.
    pub(crate) async fn keepalive(&mut self) -> pq_proto::replication::PrimaryKeepalive {
        match self.next().await.unwrap() {
            Some(FromPrimary::Keepalive(keepalive)) => keepalive,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the closing message of the server.
    pub(crate) async fn error(&mut self) -> ErrorResponse {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Err(ClientError::Server(response)) => return response,
                other => panic!("{other:?}"),
            }
        }
    }
}
