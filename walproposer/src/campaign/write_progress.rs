//! [`WriteProgress`]: whether a safekeeper writes the WAL that it is sent.
//!
//! A safekeeper whose disk is full answers every append, with a position that stands still. Its answers alone look healthy.

use consensus::{PeerState, PeerStatus};
use tokio::time::Instant;
use wal_types::Lsn;

/// PostgreSQL flushes whole pages of this size, so its WAL may end inside of a record there. Nowhere else.
const PAGE_BYTES: u64 = 8192;

/// What one safekeeper has not written yet.
#[derive(Debug, Default)]
pub(super) struct WriteProgress {
    /// Its position, and since when it stands there although more was sent.
    behind: Option<(Lsn, Instant)>,
}

impl WriteProgress {
    /// Looks at a safekeeper. `known_end` is a position that is known to be the end of a record.
    pub(super) fn observe(&mut self, peer: &PeerStatus, known_end: Lsn, now: Instant) {
        let at = peer.flush_lsn;
        let is_behind = matches!(peer.state, PeerState::Streaming { sent } if at < sent.min(known_end));
        self.behind = match self.behind {
            _ if !is_behind => None,
            Some((before, since)) if before == at => Some((before, since)),
            _ => Some((at, now)),
        };
    }

    /// Since when it has written nothing of the WAL that it was sent; `None` while it writes, or has written everything.
    pub(super) fn stands_still_since(&self) -> Option<Instant> {
        self.behind.map(|(_, since)| since)
    }
}

/// The highest position that is known to be the end of a record: what some safekeeper has flushed, or the end of the
/// primary's WAL. A safekeeper acknowledges whole records only, so it may rightly stand below the beginning of one that
/// is not complete.
pub(super) fn known_record_end(peers: &[PeerStatus], primary_end: Lsn) -> Lsn {
    let flushed = peers.iter().map(|peer| peer.flush_lsn).max().unwrap_or_default();
    if primary_end.0.is_multiple_of(PAGE_BYTES) { flushed } else { flushed.max(primary_end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use wal_types::NodeId;

    fn peer(sent: u64, flushed: u64) -> PeerStatus {
        PeerStatus {
            id: NodeId(1),
            state: PeerState::Streaming { sent: Lsn(sent) },
            flush_lsn: Lsn(flushed),
            commit_lsn: Lsn::INVALID,
            catching_up: false,
            unconfigured: false,
            needs_reseed: false,
            lost: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn position_that_stands_still_is_noticed() {
        let begin = Instant::now();
        let mut progress = WriteProgress::default();
        for (second, sent, flushed, since) in [
            (0, 100, 100, None),
            (1, 200, 100, Some(1)),
            (2, 300, 100, Some(1)),
            // It has written a part, and stands still again.
            (3, 300, 200, Some(3)),
            (4, 300, 300, None),
            // Nothing more was sent: catching up from a slow donor, for example.
            (5, 300, 300, None),
            (6, 400, 300, Some(6)),
        ] {
            progress.observe(&peer(sent, flushed), Lsn(1000), begin + Duration::from_secs(second));
            let expected = since.map(|second| begin + Duration::from_secs(second));
            assert_eq!(progress.stands_still_since(), expected, "{second}");
        }
        let offline = PeerStatus { state: PeerState::Offline, ..peer(0, 300) };
        progress.observe(&offline, Lsn(1000), begin);
        assert_eq!(progress.stands_still_since(), None);
    }

    /// The primary's WAL may end at a page boundary inside of a record, for hours.
    #[test]
    fn end_inside_a_record_is_no_record_end() {
        let peers = [peer(8192, 8000), peer(8192, 8100)];
        assert_eq!(known_record_end(&peers, Lsn(8192)), Lsn(8100));
        assert_eq!(known_record_end(&peers, Lsn(8200)), Lsn(8200));
        assert_eq!(known_record_end(&[], Lsn(8192)), Lsn::INVALID);
    }
}
