//! Drives a [`Comparison`]: reads the primary's stream, and waits for the checksum of the safekeeper.

use std::time::Duration;

use candidacy::{ComparedRange, Comparison, Verdict};
use consensus::{Action, WalBuffer};
use pq_proto::replication::FromPrimary;
use tokio::time::{Instant, sleep_until};

use super::LeadershipEnd;
use crate::campaign::Campaign;
use crate::primary::WalStream;

/// Time to read one segment from the primary and to receive the donor's checksum of it.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads `stream` up to the end of the range or a little further. Returns the verdict and the WAL that was read.
pub(super) async fn run(
    mut comparison: Comparison,
    campaign: &mut Campaign,
    stream: &mut WalStream,
) -> Result<(Verdict, WalBuffer), LeadershipEnd> {
    let ComparedRange { donor, from, to } = comparison.range();
    let donor_incarnation = campaign.incarnation(donor);
    if comparison.needs_answer() {
        campaign.request_checksum(donor, from, to);
    }

    let deadline = Instant::now() + COMPARE_TIMEOUT;
    loop {
        if let Some(verdict) = comparison.verdict() {
            return Ok((verdict, comparison.into_wal()));
        }
        // Every arm may be cancelled: an item that was not returned stays queued.
        tokio::select! {
            action = campaign.next() => {
                if let Action::Checksum { from, response } = action? {
                    comparison.answered(from, &response);
                }
            }
            item = stream.next_or_end(comparison.needs_wal()) => {
                if let FromPrimary::XLogData(piece) = item? {
                    comparison.push(piece.start, piece.data)?;
                }
            },
            () = sleep_until(deadline) => {
                return Err(LeadershipEnd::NotCompared("no answer in time"));
            }
        }
        if comparison.needs_answer() && campaign.incarnation(donor) != donor_incarnation {
            return Err(LeadershipEnd::NotCompared(
                "the connection to the safekeeper with the newest log was lost",
            ));
        }
    }
}
