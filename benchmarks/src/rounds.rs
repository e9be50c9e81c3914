//! Rounds: the order in which variants are measured. Each round measures every variant once and begins with another one,
//! so that a drift of the machine meets all of them alike.

/// Rounds of a full and of a quick run; a goal needs at least this many.
pub(crate) const ROUNDS_MIN: usize = 7;

/// The variants of one round in the order in which they are measured.
pub(crate) fn order<T: Clone>(variants: &[T], round: usize) -> Vec<T> {
    let mut order = variants.to_vec();
    if !order.is_empty() {
        // Every second pass runs backwards: otherwise a variant would always follow the same neighbour.
        let passes = round / order.len();
        order.rotate_left(round % variants.len());
        if passes % 2 == 1 {
            order.reverse();
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_variant() {
        let firsts: Vec<char> = (0..6).map(|round| order(&['a', 'b', 'c'], round)[0]).collect();
        assert_eq!(firsts, ['a', 'b', 'c', 'c', 'a', 'b']);
        assert!(order::<char>(&[], 3).is_empty());
    }
}
