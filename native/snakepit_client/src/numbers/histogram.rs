//! Counts values in classes of nearly equal relative width: 32 to each power of two, so that a value is known to
//! within 1.6 percent.

const BITS: u32 = 5;
const PER_POWER: usize = 1 << BITS;
/// Values from this on are in the last class. In microseconds it is more than an hour.
const MAX: u64 = (1 << 32) - 1;
const CLASSES: usize = (32 - BITS as usize + 1) * PER_POWER;

/// Has no memory before its first value.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

/// The values that 50, 90 and 99 percent of all are at most; `None` without any.
pub type Percentiles = Option<[u64; 3]>;

impl Histogram {
    #[inline]
    pub(super) fn add(&mut self, value: u64) {
        if self.counts.is_empty() {
            self.counts.resize(CLASSES, 0);
        }
        if let Some(count) = self.counts.get_mut(class(value)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    /// Forgets all values, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.total == 0 {
            return;
        }
        self.counts.resize(CLASSES, 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        (self.total > 0).then(|| [50, 90, 99].map(|percent| self.percentile(percent)))
    }

    fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        middle(reached.unwrap_or(CLASSES - 1))
    }
}

#[inline]
fn class(value: u64) -> usize {
    let value = value.min(MAX);
    let power = (value | 1).ilog2();
    let shift = power.saturating_sub(BITS);
    shift as usize * PER_POWER + (value >> shift) as usize
}

/// The middle of a class, rounded down.
fn middle(class: usize) -> u64 {
    if class < 2 * PER_POWER {
        return class as u64;
    }
    let shift = class / PER_POWER - 1;
    let first = ((PER_POWER + class % PER_POWER) as u64) << shift;
    first + ((1 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_values_class_is_near_the_value() {
        for power in 0..32 {
            for value in [1u64 << power, (3 << power) / 2, (2 << power) - 1] {
                let value = value.min(MAX);
                let known = middle(class(value));
                let error = known.abs_diff(value) as f64 / value as f64;
                assert!(error < 0.016, "{value} is known as {known}");
            }
        }
        assert_eq!(middle(class(0)), 0);
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn classes_are_in_the_order_of_their_values() {
        let classes: Vec<_> = (0..10_000).map(class).collect();
        assert!(classes.is_sorted());
        assert!(classes.windows(2).all(|two| two[1] - two[0] <= 1));
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        (1..=100).for_each(|value| histogram.add(value * 1000));
        let near = |found: u64, value: u64| found.abs_diff(value) * 50 < value;
        let Some([p50, p90, p99]) = histogram.percentiles() else {
            return assert_eq!(histogram.total(), 0);
        };
        assert!(near(p50, 50_000) && near(p90, 90_000) && near(p99, 99_000));
        let mut both = Histogram::default();
        both.merge(&histogram);
        both.merge(&histogram);
        assert_eq!(
            (both.total(), both.percentiles()),
            (200, histogram.percentiles())
        );
        both.clear();
        assert_eq!((both.total(), both.percentiles()), (0, None));
    }
}
