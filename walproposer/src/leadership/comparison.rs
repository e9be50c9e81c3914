//! [`Comparison`]: the primary's bytes below the end of the log against those of the safekeeper with the newest log.

use std::time::Duration;

use consensus::{Action, WalBuffer};
use pq_proto::replication::{FromPrimary, XLogData};
use tokio::time::{Instant, sleep_until};
use wal_types::{Lsn, NodeId};

use super::LeadershipEnd;
use crate::campaign::Campaign;
use crate::primary::WalStream;

/// For reading one segment from the primary and the donor's answer about it.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is compared, and with whom.
pub(super) struct Comparison {
    pub(super) donor: NodeId,
    pub(super) from: Lsn,
    pub(super) end: Lsn,
    /// The stream is of an older timeline, which ends where the log does.
    pub(super) stream_ends: bool,
}

impl Comparison {
    /// Reads `stream` up to the end of the log, or a little further, and returns what was read once it is shown to be
    /// the same.
    pub(super) async fn run(
        &self,
        campaign: &mut Campaign,
        stream: &mut WalStream,
    ) -> Result<WalBuffer, LeadershipEnd> {
        let &Self { donor, from, end, stream_ends } = self;
        let asked = campaign.incarnation(donor);
        let mut wal = WalBuffer::new(from);
        let mut ours = 0;
        let mut theirs = (from == end).then_some(Some(0));
        if theirs.is_none() {
            campaign.ask_checksum(donor, from, end);
        }
        let deadline = Instant::now() + COMPARE_TIMEOUT;
        while wal.end() < end || theirs.is_none() {
            // All may be dropped: what was not returned stays queued.
            tokio::select! {
                action = campaign.next() => {
                    if let Action::Checksum { from: node, response } = action?
                        && (node, response.from, response.to) == (donor, from, end)
                    {
                        theirs = Some(response.crc32c);
                    }
                }
                item = stream.next_or_end(wal.end() < end), if wal.end() < end || !stream_ends => {
                    if let FromPrimary::XLogData(mut piece) = item? {
                        let covered = self.covered(&piece);
                        ours = crc32c::crc32c_append(ours, &piece.data[..covered]);
                        if stream_ends {
                            piece.data.truncate(covered);
                        }
                        let expected = wal.end();
                        if !wal.push(piece.start, piece.data) {
                            return Err(LeadershipEnd::Gap { expected, got: piece.start });
                        }
                    }
                },
                () = sleep_until(deadline) => return Err(LeadershipEnd::NotCompared("no answer in time")),
            }
            if theirs.is_none() && campaign.incarnation(donor) != asked {
                return Err(LeadershipEnd::NotCompared(
                    "the connection to the safekeeper with the newest log was lost",
                ));
            }
        }
        match theirs.flatten() {
            Some(theirs) if theirs == ours => Ok(wal),
            Some(_) => Err(LeadershipEnd::OtherBytes { donor, from, to: end }),
            None => Err(LeadershipEnd::NotCompared(
                "the safekeeper with the newest log no longer holds all of it",
            )),
        }
    }

    /// Bytes of a piece that lie below the end.
    fn covered(&self, piece: &XLogData) -> usize {
        self.end.bytes_since(piece.start).min(piece.data.len() as u64) as usize
    }
}
