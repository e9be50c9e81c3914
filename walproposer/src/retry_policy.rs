//! [`RetryPolicy`]: how long to stay away after a turn. Called by `driver`.
//!
//! Whoever may lead could depose whoever leads, so two proposers that both have the log, because one was forgotten when
//! the other was started, would take the term from each other for ever. Nothing tells them which one is wanted. They
//! come back later and later, at random times, and the log is written by one of them nearly all of the time.

use std::time::Duration;

use consensus::LostTerm;
use rand::Rng;
use utils::Backoff;

use crate::leadership::LeadershipEnd;
use crate::primary::PrimaryError;

/// A stopped primary is normal: it is looked for this often.
const PRIMARY_RETRY: Duration = Duration::from_millis(100);
/// Between two attempts to lead, at least and at most.
const CAMPAIGN_RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const CAMPAIGN_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// The same after another proposer took the term. More than an operator needs to stop one of the two.
const DUEL_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// A rival comes back within [`DUEL_RETRY_DELAY_MAX`]: after a turn of this length there is none.
const DUEL_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How often it went wrong of late.
pub(crate) struct RetryPolicy {
    attempts: Backoff,
    duels: Backoff,
}

impl RetryPolicy {
    pub(crate) const fn new() -> Self {
        Self {
            attempts: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, CAMPAIGN_RETRY_DELAY_MAX),
            duels: Backoff::new(CAMPAIGN_RETRY_DELAY_MIN, DUEL_RETRY_DELAY_MAX),
        }
    }

    /// The pause after a turn that lasted so long and ended like this.
    pub(crate) fn delay_after(
        &mut self,
        end: &LeadershipEnd,
        lasted: Duration,
        random: &mut impl Rng,
    ) -> Duration {
        let (backoff, forgotten_after) = match end {
            LeadershipEnd::Primary(PrimaryError::Down(_)) => return PRIMARY_RETRY,
            LeadershipEnd::Lost(LostTerm::Deposed { .. } | LostTerm::Outvoted(_))
            | LeadershipEnd::Undecided(_) => (&mut self.duels, DUEL_FORGOTTEN_AFTER),
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

    /// From the survey to the votes, in this test.
    const CAMPAIGN: Duration = Duration::from_millis(100);

    fn deposed() -> LeadershipEnd {
        LeadershipEnd::Lost(LostTerm::Deposed { by: NodeId(1), term: Term(2), own: Term(1) })
    }

    /// Two proposers that both can lead: elections in each minute.
    fn duel(seed: u64, minutes: usize) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sides = [RetryPolicy::new(), RetryPolicy::new()];
        let mut elections = vec![0; minutes];
        // Side 0 leads since zero; side 1 begins its campaign at once.
        let (mut leader, mut since, mut now) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            now += CAMPAIGN;
            let Some(count) = elections.get_mut((now.as_secs() / 60) as usize) else { return elections };
            *count += 1;
            let pause = sides[leader].delay_after(&deposed(), now - since, &mut random);
            (leader, since) = (1 - leader, now);
            now += pause;
        }
    }

    #[test]
    fn two_that_both_can_lead_leave_each_other_alone() {
        for seed in 0..200 {
            let elections = duel(seed, 10);
            assert!(elections[0] < 40, "seed {seed}: {elections:?}");
            let later: u32 = elections[1..].iter().sum();
            assert!(later < 9 * 12, "seed {seed}: {elections:?}");
        }
    }

    #[test]
    fn two_that_split_the_votes_are_soon_apart() {
        // Both campaign at once; who begins while the other is at it takes votes away, and nobody wins.
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
    fn a_leader_of_long_standing_comes_back_soon() {
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
        assert_eq!(retry_policy.delay_after(&down, CAMPAIGN, &mut random), PRIMARY_RETRY);
    }
}
