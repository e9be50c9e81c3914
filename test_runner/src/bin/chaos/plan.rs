//! [`Plan`]: the parts that one cycle kills, and the times of the kills. The same seed and cycle number give the same
//! plan.

use std::time::Duration;

use test_runner::cluster::{PartName, SAFEKEEPERS};

/// Limit of acknowledged rows before an early kill, which hits an election or a catch-up.
const ROWS_FEW: u64 = 50;
/// Limit of acknowledged rows before a late kill.
const ROWS_MANY: u64 = 1500;
/// Limit of the delay after these rows, so that the kill hits any moment of a commit.
const DELAY_MICROS_MAX: u64 = 30_000;
/// Limit of the time between the restart of a safekeeper and its second kill.
const AGAIN_MICROS_MAX: u64 = 60_000;

/// Kills of one cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Parts to kill, in this order.
    pub(crate) parts: Vec<PartName>,
    /// Whether the killed safekeepers lose their unsynced data.
    pub(crate) forgets: bool,
    /// Acknowledged rows before the kill.
    pub(crate) rows: u64,
    /// Delay after these rows.
    pub(crate) delay: Duration,
    /// Time after its restart at which the first killed safekeeper is killed again; `None`: only once.
    pub(crate) again: Option<Duration>,
}

impl Plan {
    /// The plan of a cycle.
    pub(crate) fn of(seed: u64, cycle: u64) -> Self {
        let mut random = SplitMix64(seed ^ cycle.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut parts = parts(&mut random);
        random.shuffle(&mut parts);
        Self {
            parts,
            forgets: random.below(2) == 0,
            rows: if random.below(2) == 0 { random.below(ROWS_FEW) } else { random.below(ROWS_MANY) },
            delay: Duration::from_micros(random.below(DELAY_MICROS_MAX)),
            again: (random.below(4) == 0).then(|| Duration::from_micros(random.below(AGAIN_MICROS_MAX))),
        }
    }
}

fn parts(random: &mut SplitMix64) -> Vec<PartName> {
    let mut safekeepers: Vec<PartName> = (1..=SAFEKEEPERS).map(PartName::Safekeeper).collect();
    random.shuffle(&mut safekeepers);
    let mut some = |count| safekeepers.drain(..count).collect::<Vec<_>>();
    match random.below(20) {
        0..6 => some(1),
        6..10 => some(2),
        10..13 => some(3),
        13..15 => vec![PartName::Walproposer],
        15..17 => vec![PartName::Postgres],
        17..19 => {
            let count = 1 + usize::try_from(random.below(SAFEKEEPERS)).unwrap_or(0);
            [some(count), vec![PartName::Walproposer]].concat()
        }
        _ => [some(3), vec![PartName::Walproposer, PartName::Postgres]].concat(),
    }
}

/// The generator splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1);
            items.swap(last, usize::try_from(other).unwrap_or(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_repeats_per_seed_and_kills_every_part() {
        let plans: Vec<Plan> = (1..=200).map(|cycle| Plan::of(7, cycle)).collect();
        assert_eq!(plans, (1..=200).map(|cycle| Plan::of(7, cycle)).collect::<Vec<_>>());
        assert_ne!(plans[0], Plan::of(8, 1));
        let safekeepers =
            |plan: &Plan| plan.parts.iter().filter(|part| matches!(part, PartName::Safekeeper(_))).count();
        let kills = |part| plans.iter().filter(|plan| plan.parts.contains(&part)).count();
        for count in 0..=3 {
            assert!(plans.iter().any(|plan| safekeepers(plan) == count && plan.parts.len() == count.max(1)));
        }
        for part in [PartName::Safekeeper(1), PartName::Walproposer, PartName::Postgres] {
            assert!(kills(part) > 10, "{part}");
        }
        assert!(plans.iter().any(|plan| plan.parts.len() == 5));
        assert!(plans.iter().any(|plan| plan.forgets) && plans.iter().any(|plan| !plan.forgets));
        assert!(plans.iter().all(|plan| !plan.parts.is_empty()));
    }
}
