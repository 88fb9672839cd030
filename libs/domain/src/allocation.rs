//! Splitting the stock of an event over its discounts.

/// The share of one discount. All discounts of an event use the same kind of share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Percent of the stock. The percentages of an event sum to 100.
    Percentage(u8),
    /// A number of coupons. The numbers of an event sum to the stock.
    Count(u64),
}

/// The stock cannot be split by these shares.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// There is no discount.
    #[error("an event needs at least one discount")]
    Empty,
    /// Some discounts have a percentage, others a count.
    #[error("use either allocationPercentage or count for all discounts, not both")]
    Mixed,
    /// The percentages do not sum to 100.
    #[error("the percentages sum to {0}, not to 100")]
    PercentageSum(u64),
    /// The counts do not sum to the stock.
    #[error("the counts sum to {sum}, not to {total}")]
    CountSum {
        /// The sum of the counts.
        sum: u64,
        /// The size of the stock.
        total: u64,
    },
}

/// Splits `total` coupons over `shares`; the result has one number per share and sums to `total` exactly.
///
/// Percentages that do not divide evenly are rounded by the largest-remainder method (Hamilton): every share is
/// rounded down, and the coupons that are left go one by one to the largest fractions, for equal fractions to the
/// earlier discount.
pub fn split(total: u64, shares: &[Share]) -> Result<Vec<u64>, AllocationError> {
    let mut percentages = Vec::new();
    let mut counts = Vec::new();
    for share in shares {
        match *share {
            Share::Percentage(percent) => percentages.push(u64::from(percent)),
            Share::Count(count) => counts.push(count),
        }
    }
    match (percentages.is_empty(), counts.is_empty()) {
        (true, true) => Err(AllocationError::Empty),
        (false, false) => Err(AllocationError::Mixed),
        (false, true) => split_by_percentage(total, &percentages),
        (true, false) => {
            let sum = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            if sum == total { Ok(counts) } else { Err(AllocationError::CountSum { sum, total }) }
        }
    }
}

fn split_by_percentage(total: u64, percentages: &[u64]) -> Result<Vec<u64>, AllocationError> {
    let sum: u64 = percentages.iter().sum();
    if sum != 100 {
        return Err(AllocationError::PercentageSum(sum));
    }
    // total * percent / 100 without overflow: total = 100 q + r
    let (q, r) = (total / 100, total % 100);
    let mut parts: Vec<u64> = percentages.iter().map(|p| q * p + r * p / 100).collect();
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(r * percentages[i] % 100));
    let left = total - parts.iter().sum::<u64>();
    for (_, i) in (0..left).zip(by_remainder) {
        parts[i] += 1;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(shares: &[u8]) -> Vec<Share> {
        shares.iter().copied().map(Share::Percentage).collect()
    }

    #[test]
    fn remainder_goes_to_largest_fraction_then_to_first() {
        assert_eq!(split(100, &percent(&[70, 30])), Ok(vec![70, 30]));
        assert_eq!(split(100, &percent(&[33, 33, 34])), Ok(vec![33, 33, 34]));
        assert_eq!(split(10, &percent(&[33, 33, 34])), Ok(vec![3, 3, 4]));
        assert_eq!(split(1, &percent(&[50, 50])), Ok(vec![1, 0]));
        assert_eq!(split(3, &percent(&[49, 51])), Ok(vec![1, 2]));
    }

    #[test]
    fn invalid_shares_are_rejected() {
        assert_eq!(split(100, &percent(&[33, 33, 33])), Err(AllocationError::PercentageSum(99)));
        assert_eq!(split(100, &[]), Err(AllocationError::Empty));
        assert_eq!(split(100, &[Share::Percentage(50), Share::Count(50)]), Err(AllocationError::Mixed));
        assert_eq!(
            split(100, &[Share::Count(50), Share::Count(51)]),
            Err(AllocationError::CountSum { sum: 101, total: 100 })
        );
        assert_eq!(
            split(100, &[Share::Count(u64::MAX), Share::Count(2)]),
            Err(AllocationError::CountSum { sum: u64::MAX, total: 100 })
        );
    }

    /// Up to 20 percentages that sum to 100.
    fn percentages() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::btree_set(1..100u8, 0..19).prop_map(|cuts| {
            let mut edges = vec![0];
            edges.extend(cuts);
            edges.push(100);
            edges.windows(2).map(|pair| pair[1] - pair[0]).collect()
        })
    }

    proptest! {
        #[test]
        fn percentages_sum_to_total_within_one_of_their_quota(total in 0..u64::MAX, shares in percentages()) {
            let parts = split(total, &percent(&shares)).unwrap();
            prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(total));
            for (part, share) in parts.iter().zip(&shares) {
                let quota = u128::from(total) * u128::from(*share);
                prop_assert!((u128::from(*part) * 100).abs_diff(quota) < 100);
            }
        }
    }
}
