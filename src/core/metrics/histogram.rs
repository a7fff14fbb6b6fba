//! How long things took: counts by upper bound, in an array that never grows.
//!
//! Recording is a scan over a few bounds and two additions. Who measures, and by which clock, it
//! does not know.

/// Upper bounds, in microseconds: three a decade, from what a turn of the loop takes at its best
/// to what nobody should wait for.
pub const BOUNDS_US: [u64; 19] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A distribution of durations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Histogram {
    /// Durations by the first bound that they are not above.
    counts: [u64; BOUNDS_US.len()],
    /// Those above the last.
    above: u64,
    /// All of them together, in microseconds.
    sum_us: u64,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, us: u64) {
        self.sum_us = self.sum_us.saturating_add(us);
        match BOUNDS_US.iter().position(|bound| us <= *bound) {
            Some(at) => self.counts[at] += 1,
            None => self.above += 1,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// How long they were together, in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Each bound in seconds, and how many were not above it.
    pub fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut so_far = 0;
        BOUNDS_US.iter().zip(self.counts).map(move |(bound, count)| {
            so_far += count;
            (*bound as f64 / 1e6, so_far)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_under_every_bound_that_it_is_not_above() {
        let mut histogram = Histogram::default();
        for us in [0, 10, 11, 1_000, 10_000_000, 10_000_001] {
            histogram.record(us);
        }
        let cumulated: Vec<(f64, u64)> = histogram.cumulated().collect();
        assert_eq!(cumulated[0], (0.000_01, 2));
        assert_eq!(cumulated[1], (0.000_025, 3));
        assert_eq!(cumulated[6], (0.001, 4));
        assert_eq!(cumulated[18], (10.0, 5));
        assert_eq!((histogram.count(), histogram.sum_s()), (6, 20.001_022));
        assert!(BOUNDS_US.is_sorted());
    }
}
