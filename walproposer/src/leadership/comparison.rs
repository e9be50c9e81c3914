//! [`Comparison`]: compares the primary's bytes below the end of the log with those of the safekeeper that has the newest
//! log.

use std::time::Duration;

use consensus::{Action, WalBuffer};
use pq_proto::replication::{FromPrimary, XLogData};
use tokio::time::{Instant, sleep_until};
use wal_types::{Lsn, NodeId};

use super::LeadershipEnd;
use crate::campaign::Campaign;
use crate::primary::WalStream;

/// Time to read one segment from the primary and to receive the donor's checksum of it.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// Range and donor of one comparison.
pub(super) struct Comparison {
    pub(super) donor: NodeId,
    pub(super) from: Lsn,
    pub(super) end: Lsn,
    /// The stream is of an older timeline, which ends where the log does.
    pub(super) stream_ends: bool,
}

impl Comparison {
    /// Reads `stream` up to the end of the log or a little further. Returns the WAL that was read when its checksum equals
    /// the donor's.
    pub(super) async fn run(
        &self,
        campaign: &mut Campaign,
        stream: &mut WalStream,
    ) -> Result<WalBuffer, LeadershipEnd> {
        let &Self { donor, from, end, stream_ends } = self;
        let donor_incarnation = campaign.incarnation(donor);
        let mut wal = WalBuffer::new(from);
        let mut primary_crc = 0;
        // Outer option: the donor has answered. Inner option: it still holds the whole range.
        let mut donor_crc = (from == end).then_some(Some(0));
        if donor_crc.is_none() {
            campaign.request_checksum(donor, from, end);
        }

        let deadline = Instant::now() + COMPARE_TIMEOUT;
        while wal.end() < end || donor_crc.is_none() {
            // Every arm may be cancelled: an item that was not returned stays queued.
            tokio::select! {
                action = campaign.next() => {
                    if let Action::Checksum { from: node, response } = action?
                        && (node, response.from, response.to) == (donor, from, end)
                    {
                        donor_crc = Some(response.crc32c);
                    }
                }
                item = stream.next_or_end(wal.end() < end) => {
                    if let FromPrimary::XLogData(mut piece) = item? {
                        let covered = self.covered_bytes(&piece);
                        primary_crc = crc32c::crc32c_append(primary_crc, &piece.data[..covered]);
                        if stream_ends {
                            piece.data.truncate(covered);
                        }
                        let expected = wal.end();
                        if !wal.push(piece.start, piece.data) {
                            return Err(LeadershipEnd::Gap { expected, got: piece.start });
                        }
                    }
                },
                () = sleep_until(deadline) => {
                    return Err(LeadershipEnd::NotCompared("no answer in time"));
                }
            }
            if donor_crc.is_none() && campaign.incarnation(donor) != donor_incarnation {
                return Err(LeadershipEnd::NotCompared(
                    "the connection to the safekeeper with the newest log was lost",
                ));
            }
        }

        match donor_crc.flatten() {
            Some(donor_crc) if donor_crc == primary_crc => Ok(wal),
            Some(_) => Err(LeadershipEnd::OtherBytes { donor, from, to: end }),
            None => Err(LeadershipEnd::NotCompared(
                "the safekeeper with the newest log no longer holds all of the range",
            )),
        }
    }

    /// Number of bytes of a piece that lie below the end of the log.
    fn covered_bytes(&self, piece: &XLogData) -> usize {
        self.end.bytes_since(piece.start).min(piece.data.len() as u64) as usize
    }
}
