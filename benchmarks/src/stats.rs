//! Statistics of rounds: median, spread, and a ratio with its 95 % interval. Pure functions.
//!
//! The interval of a ratio is the one of Wilcoxon's signed ranks over the logarithms of the rounds' ratios. It assumes no
//! normal distribution, and one disturbed round of seven does not move it far. With fewer than six rounds there is none.

/// Half of what a 95 % interval leaves out: the probability on each side of it.
const TAIL: f64 = 0.025;

/// A ratio of two variants over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// The Hodges-Lehmann estimate: the median of the means of all pairs of rounds.
    pub(crate) estimate: f64,
    /// The 95 % interval; `None` with too few rounds.
    pub(crate) interval: Option<(f64, f64)>,
}

/// The median. `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which this share of the values lies, interpolated. `None` without values.
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let position = share * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

/// Spread: the distance of the quartiles divided by the median. `None` without values or with the median 0.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values).filter(|middle| *middle != 0.0)?;
    Some((quantile(values, 0.75)? - quantile(values, 0.25)?) / middle)
}

/// The ratio of two variants that were measured in the same rounds. `None` when a value is not positive, because such a
/// value has no logarithm, or when the numbers of rounds differ.
pub(crate) fn ratio(ours: &[f64], peer: &[f64]) -> Option<Ratio> {
    if ours.len() != peer.len() || ours.iter().chain(peer).any(|value| *value <= 0.0) {
        return None;
    }
    let logarithms: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| (ours / peer).ln()).collect();
    let location = location(&logarithms)?;
    let interval = location.interval.map(|(low, high)| (low.exp(), high.exp()));
    Some(Ratio { estimate: location.estimate.exp(), interval })
}

/// The middle of one variant's values with its 95 % interval, for goals that compare with a number.
pub(crate) fn location(values: &[f64]) -> Option<Ratio> {
    let mut means = Vec::new();
    for (index, first) in values.iter().enumerate() {
        means.extend(values[index..].iter().map(|second| (first + second) / 2.0));
    }
    means.sort_by(f64::total_cmp);

    let estimate = median(&means)?;
    let outside = means_outside(values.len());
    let interval = outside.map(|outside| (means[outside], means[means.len() - 1 - outside]));
    Some(Ratio { estimate, interval })
}

/// How many of the sorted means of pairs lie on each side outside of the 95 % interval, for this number of rounds.
fn means_outside(rounds: usize) -> Option<usize> {
    // counts[s]: subsets of the ranks 1..=rounds with the sum s, which are equally likely if there is no difference.
    let mut counts = vec![1.0];
    for rank in 1..=rounds {
        let mut with_rank = vec![0.0; counts.len() + rank];
        for (sum, count) in counts.iter().enumerate() {
            with_rank[sum] += count;
            with_rank[sum + rank] += count;
        }
        counts = with_rank;
    }

    let all: f64 = counts.iter().sum();
    let mut probability = 0.0;
    let within_tail = |count: &&f64| {
        probability += **count / all;
        probability <= TAIL
    };
    counts.iter().take_while(within_tail).count().checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles_interpolate() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(quantile(&[0.0, 10.0], 0.25), Some(2.5));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(2.0 / 3.0));
    }

    /// Critical values of the two-sided signed-rank test at 0.05 from any table: none below 6, 0 for 6, 2 for 7, 8 for 10.
    #[test]
    fn signed_rank_tables_give_the_interval() {
        let outside: Vec<Option<usize>> = [5, 6, 7, 10].into_iter().map(means_outside).collect();
        assert_eq!(outside, [None, Some(0), Some(2), Some(8)]);
    }

    #[test]
    fn equal_rounds_have_a_narrow_interval() {
        let found = ratio(&[2.0; 7], &[1.0; 7]).unwrap();
        let (low, high) = found.interval.unwrap();
        for value in [found.estimate, low, high] {
            assert!((value - 2.0).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn one_disturbed_round_hardly_moves_a_ratio() {
        let ours = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 0.2];
        let found = ratio(&ours, &[1.0; 7]).unwrap();
        assert!((found.estimate - 1.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn ratio_needs_positive_pairs() {
        assert_eq!(ratio(&[1.0, 0.0], &[1.0, 1.0]), None);
        assert_eq!(ratio(&[1.0], &[1.0, 1.0]), None);
        assert_eq!(ratio(&[1.0; 5], &[1.0; 5]).unwrap().interval, None);
    }
}
