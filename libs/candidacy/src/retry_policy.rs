//! [`RetryPolicy`]: delay between two attempts to lead, and the term above which the next one campaigns.
//!
//! Any candidate can depose a leader. Two walproposers that serve the same log, because an operator forgot to stop the first
//! when starting the second, would therefore take the term from each other for ever, and nothing tells them which one is
//! wanted. They back off longer and longer, by random delays, so that one of them writes the log nearly all of the time.
//!
//! A primary that was found to have other WAL than the log can never lead it, however often it asks. It stays away for
//! minutes, longer each time, until its WAL may have changed: that takes a stop of the server.

use std::time::Duration;

use rand::Rng;
use utils::Backoff;
use wal_types::{Lsn, Term};

use crate::end_kind::EndKind;

/// Delay after an attempt that found the primary down. A stopped primary is normal: it is tried again this often.
const PRIMARY_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Shortest delay after any other end.
const CAMPAIGN_RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
/// Longest delay after an end that no rival caused.
const CAMPAIGN_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Longest delay after another candidate took the term. An operator needs less to stop one of the two.
const RIVAL_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// A rival comes back within [`RIVAL_RETRY_DELAY_MAX`]: after a leadership of this length there is none.
const RIVAL_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Shortest delay after the primary's WAL was found to be another one.
const DIVERGED_RETRY_DELAY_MIN: Duration = Duration::from_secs(2 * 60);
/// Longest delay after the primary's WAL was found to be another one.
const DIVERGED_RETRY_DELAY_MAX: Duration = Duration::from_secs(30 * 60);

/// Delays that a caller may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryDelays {
    /// Shortest delay after the primary's WAL was found to be another one.
    pub diverged_min: Duration,
    /// Longest delay after that.
    pub diverged_max: Duration,
}

impl Default for RetryDelays {
    fn default() -> Self {
        Self { diverged_min: DIVERGED_RETRY_DELAY_MIN, diverged_max: DIVERGED_RETRY_DELAY_MAX }
    }
}

/// Counts recent failures, separately by what caused them, and keeps the facts that the next attempt could not learn in
/// time by itself.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    attempts: Backoff,
    rivals: Backoff,
    diverged: Backoff,
    term_floor: Term,
    acknowledged_end: Option<Lsn>,
}

impl RetryPolicy {
    /// A policy without recent failures.
    pub const fn new(delays: RetryDelays) -> Self {
        Self {
            attempts: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, CAMPAIGN_RETRY_DELAY_MAX),
            rivals: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, RIVAL_RETRY_DELAY_MAX),
            diverged: Backoff::new(delays.diverged_min, delays.diverged_max),
            term_floor: Term::ZERO,
            acknowledged_end: None,
        }
    }

    /// Counts an attempt that took `lasted`, its leadership included, and ended with `end`. Returns the delay before the
    /// next one.
    pub fn delay_after(&mut self, end: EndKind, lasted: Duration, random: &mut impl Rng) -> Duration {
        self.acknowledged_end = None;
        let (backoff, forgotten_after) = match end {
            EndKind::PrimaryDown => {
                self.primary_changed();
                return PRIMARY_RETRY_DELAY;
            }
            EndKind::Diverged => return self.diverged.next_delay(random),
            EndKind::Rival { term } => {
                self.term_floor = self.term_floor.max(term);
                (&mut self.rivals, RIVAL_FORGOTTEN_AFTER)
            }
            EndKind::AcknowledgedSegmentGone { end } => {
                self.acknowledged_end = Some(end);
                (&mut self.attempts, CAMPAIGN_RETRY_DELAY_MAX)
            }
            EndKind::Other => (&mut self.attempts, CAMPAIGN_RETRY_DELAY_MAX),
        };
        if lasted > forgotten_after {
            backoff.reset();
        }
        backoff.next_delay(random)
    }

    /// Forgets that the primary's WAL was another one: the server was stopped meanwhile, so it may have been rewound or
    /// replaced. The caller ends the delay.
    pub const fn primary_changed(&mut self) {
        self.diverged.reset();
    }

    /// The highest term that deposed this candidate so far. A campaign requests votes as soon as a quorum has answered.
    /// Without this floor, a slow safekeeper that has promised a high term would answer later and end one leadership after
    /// the other.
    pub const fn term_floor(&self) -> Term {
        self.term_floor
    }

    /// End of a log whose last segment the primary no longer has, and up to which all WAL was acknowledged to the primary.
    /// Valid for the next attempt only.
    pub const fn acknowledged_end(&self) -> Option<Lsn> {
        self.acknowledged_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Duration of an election in these tests.
    const CAMPAIGN: Duration = Duration::from_millis(100);
    const OUTVOTED: EndKind = EndKind::Rival { term: Term::ZERO };

    fn policy() -> RetryPolicy {
        RetryPolicy::new(RetryDelays::default())
    }

    /// Simulates two proposers that both can lead. Returns the number of elections in each minute.
    fn simulate_rivals(seed: u64, minutes: usize) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sides = [policy(), policy()];
        let mut elections = vec![0; minutes];
        // Side 0 leads from time zero; side 1 begins its campaign at once.
        let (mut leader, mut since, mut now) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            now += CAMPAIGN;
            let Some(count) = elections.get_mut((now.as_secs() / 60) as usize) else { return elections };
            *count += 1;
            let delay = sides[leader].delay_after(OUTVOTED, now - since, &mut random);
            (leader, since) = (1 - leader, now);
            now += delay;
        }
    }

    #[test]
    fn retry_policy_keeps_rival_leaders_apart() {
        for seed in 0..200 {
            let elections = simulate_rivals(seed, 10);
            assert!(elections[0] < 40, "seed {seed}: {elections:?}");
            let later: u32 = elections[1..].iter().sum();
            assert!(later < 9 * 12, "seed {seed}: {elections:?}");
        }
    }

    #[test]
    fn retry_policy_separates_candidates_that_split_votes() {
        // Both campaign at once: a candidate that begins during the other's campaign takes votes away, and neither wins.
        for seed in 0..1000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut sides = [policy(), policy()];
            let mut begin = [Duration::ZERO; 2];
            let mut rounds = 0;
            while begin[0].abs_diff(begin[1]) < CAMPAIGN {
                for (begin, side) in begin.iter_mut().zip(&mut sides) {
                    *begin += CAMPAIGN + side.delay_after(OUTVOTED, CAMPAIGN, &mut random);
                }
                rounds += 1;
            }
            assert!(rounds <= 12, "seed {seed}: {rounds}");
        }
    }

    #[test]
    fn retry_policy_forgets_rivals_after_long_leadership() {
        let mut random = StdRng::seed_from_u64(1);
        let mut retry_policy = policy();
        for _ in 0..20 {
            retry_policy.delay_after(OUTVOTED, CAMPAIGN, &mut random);
        }
        assert!(
            retry_policy.delay_after(OUTVOTED, Duration::from_secs(61), &mut random)
                <= CAMPAIGN_RETRY_DELAY_MIN * 2
        );
        assert_eq!(
            retry_policy.delay_after(EndKind::PrimaryDown, CAMPAIGN, &mut random),
            PRIMARY_RETRY_DELAY
        );
    }

    /// A diverged primary waits for minutes, longer each time, and as short as at first when its server was stopped.
    #[test]
    fn retry_policy_keeps_diverged_primaries_away() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut retry_policy = policy();
            let mut diverged =
                |policy: &mut RetryPolicy| policy.delay_after(EndKind::Diverged, CAMPAIGN, &mut random);
            for _ in 0..20 {
                let delay = diverged(&mut retry_policy);
                assert!((DIVERGED_RETRY_DELAY_MIN..=DIVERGED_RETRY_DELAY_MAX).contains(&delay));
            }
            retry_policy.primary_changed();
            assert!(diverged(&mut retry_policy) <= DIVERGED_RETRY_DELAY_MIN * 2);
        }
    }

    /// The floor never sinks; the end of a segment that is gone is carried over once.
    #[test]
    fn retry_policy_keeps_floor_and_drops_acknowledged_end() {
        let mut random = StdRng::seed_from_u64(1);
        let mut retry_policy = policy();
        for (end, term_floor, acknowledged_end) in [
            (EndKind::Other, 0, None),
            (EndKind::Rival { term: Term(50) }, 50, None),
            (EndKind::AcknowledgedSegmentGone { end: Lsn(8) }, 50, Some(Lsn(8))),
            (EndKind::Diverged, 50, None),
            (EndKind::AcknowledgedSegmentGone { end: Lsn(8) }, 50, Some(Lsn(8))),
            (EndKind::PrimaryDown, 50, None),
            (EndKind::Rival { term: Term(7) }, 50, None),
        ] {
            retry_policy.delay_after(end, CAMPAIGN, &mut random);
            assert_eq!(retry_policy.term_floor(), Term(term_floor), "{end:?}");
            assert_eq!(retry_policy.acknowledged_end(), acknowledged_end, "{end:?}");
        }
    }
}
