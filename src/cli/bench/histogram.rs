//! A histogram of times that keeps every percentile to within one part in 128, in constant memory.
//!
//! Buckets are log-linear: 128 of equal width for each power of two. So a microsecond and a second
//! are both told to three digits, and recording costs a shift and an increment.

/// Sub-buckets of a power of two, as a power of two.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;

/// Values below `SUB` have a bucket each, and so has every part of the 57 powers of two above.
const BUCKETS: usize = SUB * (64 - SUB_BITS as usize + 1);

/// Times in nanoseconds.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            max: 0,
        }
    }

    pub(super) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// How many were recorded.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The largest, exactly; 0 if there is none.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The smallest time within which `per_mille` of a thousand lie, to within one part in 128
    /// above it; 0 if there is none.
    pub(super) fn percentile(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(bucket).min(self.max);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    let exponent = (value | 1).ilog2();
    if exponent < SUB_BITS {
        return value as usize;
    }
    let shift = exponent - SUB_BITS;
    let within = (value >> shift) as usize - SUB;
    SUB * (shift as usize + 1) + within
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = (bucket / SUB - 1) as u32;
    let first = ((bucket % SUB + SUB) as u64) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_value_lies_in_the_bucket_that_ends_at_or_above_it() {
        for value in [
            0,
            1,
            127,
            128,
            129,
            255,
            256,
            1_000_000,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let bucket = bucket(value);
            assert!(upper_end(bucket) >= value, "{value}");
            assert!(bucket == 0 || upper_end(bucket - 1) < value, "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_recorded_is_zero() {
        let empty = Histogram::new();
        assert_eq!(
            (empty.percentile(990), empty.max(), empty.count()),
            (0, 0, 0)
        );
    }

    proptest! {
        /// The naive model sorts and counts.
        #[test]
        fn percentiles_are_those_of_a_sorted_list(
            values in prop::collection::vec(0_u64..10_000_000_000, 1..500),
            per_mille in 1_u64..=1000,
        ) {
            let mut histogram = Histogram::new();
            for value in &values {
                histogram.record(*value);
            }
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000) as usize;
            let exact = sorted[rank - 1];
            let told = histogram.percentile(per_mille);
            prop_assert!(told >= exact, "{told} is below {exact}");
            prop_assert!(told - exact <= exact / SUB as u64 + 1, "{told} is far from {exact}");
            prop_assert_eq!(histogram.max(), *sorted.last().unwrap());
        }
    }
}
