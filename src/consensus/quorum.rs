//! Counting majorities.

/// How many of `voters` nodes are a majority.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The largest value that a majority has reached; `values` holds one per voter, in any order, and is reordered.
/// 0 when there is no voter: nobody has agreed to anything.
pub(super) fn agreed(values: &mut [u64]) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let position = values.len() - majority(values.len());
    *values.select_nth_unstable(position).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreed_is_what_a_majority_reached() {
        assert_eq!(agreed(&mut []), 0);
        assert_eq!(agreed(&mut [5]), 5);
        assert_eq!(agreed(&mut [5, 3]), 3);
        assert_eq!(agreed(&mut [9, 1, 5]), 5);
        assert_eq!(agreed(&mut [9, 1, 5, 7]), 5);
        assert_eq!(agreed(&mut [9, 1, 5, 7, 8]), 7);
    }

    #[test]
    fn agreed_equals_the_definition() {
        let mut random = super::super::random::Random::new(3, 3);
        for _ in 0..2000 {
            let mut values: Vec<u64> = (0..=random.below(6)).map(|_| random.below(6)).collect();
            let needed = majority(values.len());
            let expected =
                (0..6).rev().find(|v| values.iter().filter(|x| *x >= v).count() >= needed).unwrap_or(0);
            assert_eq!(agreed(&mut values), expected, "{values:?}");
        }
    }
}
