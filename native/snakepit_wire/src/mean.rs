use std::time::Duration;

/// A time in nanoseconds, as far as these can be counted.
#[inline]
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The moving mean of times in nanoseconds. A new one counts for an eighth.
#[inline]
#[must_use]
pub const fn moving_mean(mean: u64, new: u64) -> u64 {
    mean - mean / 8 + new / 8
}

#[cfg(test)]
mod tests {
    use super::moving_mean;

    #[test]
    fn the_mean_follows_the_newest_value_and_never_overflows() {
        let mean = (0..400).fold(u64::MAX, |mean, _| moving_mean(mean, 8_000));
        assert!((8_000..8_016).contains(&mean), "{mean}");
        assert_eq!(moving_mean(8_000, 16_000), 9_000);
        assert!(moving_mean(u64::MAX, u64::MAX) > u64::MAX - 8);
    }
}
