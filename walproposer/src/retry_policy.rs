//! [`RetryPolicy`]: delay between two leaderships. Called by `leadership_loop`.
//!
//! Any candidate can depose a leader. Two walproposers that serve the same log, because an operator forgot to stop the first
//! when starting the second, would therefore take the term from each other for ever, and nothing tells them which one is
//! wanted. They back off longer and longer, by random delays, so that one of them writes the log nearly all of the time.

use std::time::Duration;

use consensus::LostTerm;
use rand::Rng;
use utils::Backoff;

use crate::leadership::LeadershipEnd;
use crate::primary::PrimaryError;

/// Delay after a leadership that found the primary down. A stopped primary is normal: it is tried again this often.
const PRIMARY_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Shortest delay after any other end of a leadership.
const CAMPAIGN_RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
/// Longest delay after an end that no rival caused.
const CAMPAIGN_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Longest delay after another proposer took the term. An operator needs less to stop one of the two.
const RIVAL_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// A rival comes back within [`RIVAL_RETRY_DELAY_MAX`]: after a leadership of this length there is none.
const RIVAL_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Counts recent failures, separately for those that a rival caused.
pub(crate) struct RetryPolicy {
    attempts: Backoff,
    rivals: Backoff,
}

impl RetryPolicy {
    /// A policy without recent failures.
    pub(crate) const fn new() -> Self {
        Self {
            attempts: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, CAMPAIGN_RETRY_DELAY_MAX),
            rivals: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, RIVAL_RETRY_DELAY_MAX),
        }
    }

    /// The delay after a leadership that lasted `lasted` and ended with `end`.
    pub(crate) fn delay_after(
        &mut self,
        end: &LeadershipEnd,
        lasted: Duration,
        random: &mut impl Rng,
    ) -> Duration {
        let (backoff, forgotten_after) = match end {
            LeadershipEnd::Primary(PrimaryError::Down(_)) => return PRIMARY_RETRY_DELAY,
            LeadershipEnd::Lost(LostTerm::Deposed { .. } | LostTerm::Outvoted(_))
            | LeadershipEnd::NoMajority(_) => (&mut self.rivals, RIVAL_FORGOTTEN_AFTER),
            _ => (&mut self.attempts, CAMPAIGN_RETRY_DELAY_MAX),
        };
        if lasted > forgotten_after {
            backoff.reset();
        }
        backoff.next_delay(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use wal_types::{NodeId, Term};

    /// Duration of an election in these tests.
    const CAMPAIGN: Duration = Duration::from_millis(100);

    fn deposed() -> LeadershipEnd {
        LeadershipEnd::Lost(LostTerm::Deposed { by: NodeId(1), term: Term(2), own: Term(1) })
    }

    /// Simulates two proposers that both can lead. Returns the number of elections in each minute.
    fn simulate_rivals(seed: u64, minutes: usize) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sides = [RetryPolicy::new(), RetryPolicy::new()];
        let mut elections = vec![0; minutes];
        // Side 0 leads from time zero; side 1 begins its campaign at once.
        let (mut leader, mut since, mut now) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            now += CAMPAIGN;
            let Some(count) = elections.get_mut((now.as_secs() / 60) as usize) else { return elections };
            *count += 1;
            let delay = sides[leader].delay_after(&deposed(), now - since, &mut random);
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
            let mut sides = [RetryPolicy::new(), RetryPolicy::new()];
            let mut begin = [Duration::ZERO; 2];
            let mut rounds = 0;
            while begin[0].abs_diff(begin[1]) < CAMPAIGN {
                let outvoted = LeadershipEnd::Lost(LostTerm::Outvoted(Term(1)));
                for (begin, side) in begin.iter_mut().zip(&mut sides) {
                    *begin += CAMPAIGN + side.delay_after(&outvoted, CAMPAIGN, &mut random);
                }
                rounds += 1;
            }
            assert!(rounds <= 12, "seed {seed}: {rounds}");
        }
    }

    #[test]
    fn retry_policy_forgets_rivals_after_long_leadership() {
        let mut random = StdRng::seed_from_u64(1);
        let mut retry_policy = RetryPolicy::new();
        for _ in 0..20 {
            retry_policy.delay_after(&deposed(), CAMPAIGN, &mut random);
        }
        assert!(
            retry_policy.delay_after(&deposed(), Duration::from_secs(61), &mut random)
                <= CAMPAIGN_RETRY_DELAY_MIN * 2
        );
        let down = LeadershipEnd::Primary(PrimaryError::Down(String::new()));
        assert_eq!(retry_policy.delay_after(&down, CAMPAIGN, &mut random), PRIMARY_RETRY_DELAY);
    }
}
