//! How slow a client may be: a pause now and then, and a least rate over longer times.

use std::time::Duration;

/// What is asked of a client that has something to send, or something to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeastRate {
    /// The longest pause, of one that was quick enough before.
    pub(crate) pause: Duration,
    /// 0: whoever moves a byte may pause again.
    pub(crate) bytes_per_second: u64,
}

/// The time that a client may still keep us waiting. Waiting uses it up, and each byte brings back the time that it
/// may take at the least rate: so the rate is kept over any time longer than the pause, and whoever is quicker may
/// rest for that long now and then.
#[derive(Debug)]
pub(crate) struct Allowance {
    rate: LeastRate,
    left: Duration,
}

impl Allowance {
    pub(crate) fn new(rate: LeastRate) -> Self {
        Self { rate, left: rate.pause }
    }

    /// How long the client may take from now on.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// The longest that it can ever be.
    pub(crate) fn pause(&self) -> Duration {
        self.rate.pause
    }

    /// Notes that we waited, for the client alone.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Notes that bytes moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if self.left == self.rate.pause || bytes == 0 {
            return;
        }
        let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.rate.bytes_per_second);
        let earned = nanos.map_or(self.rate.pause, Duration::from_nanos);
        self.left = self.left.saturating_add(earned).min(self.rate.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn allowance(bytes_per_second: u64) -> Allowance {
        Allowance::new(LeastRate { pause: 60 * SECOND, bytes_per_second })
    }

    /// How many times a client may take `pause` for `bytes`, up to 1000.
    fn times(bytes_per_second: u64, pause: Duration, bytes: usize) -> usize {
        let mut allowance = allowance(bytes_per_second);
        for times in 0..1000 {
            if allowance.left() < pause {
                return times;
            }
            allowance.waited(pause);
            allowance.moved(bytes);
        }
        1000
    }

    #[test]
    fn l1_who_keeps_the_least_rate_may_go_on_for_ever() {
        assert_eq!(times(240, SECOND, 240), 1000);
        assert_eq!(times(240, 59 * SECOND, 59 * 240), 1000);
        assert_eq!(times(240, 59 * SECOND, 1 << 20), 1000);
    }

    #[test]
    fn l1_who_is_slower_ends_after_a_pause_and_what_the_bytes_brought() {
        assert_eq!(times(240, SECOND, 1), 60);
        assert_eq!(times(240, SECOND, 120), 119);
        assert_eq!(times(240, 59 * SECOND, 1), 1);
        assert_eq!(times(240, 61 * SECOND, 1 << 20), 0);
    }

    #[test]
    fn l1_bytes_that_came_early_are_no_credit_for_later() {
        let mut allowance = allowance(240);
        allowance.moved(1 << 30);
        allowance.waited(60 * SECOND);
        assert_eq!(allowance.left(), Duration::ZERO);
    }

    #[test]
    fn l1_without_a_least_rate_each_byte_allows_another_pause() {
        assert_eq!(times(0, 59 * SECOND, 1), 1000);
        assert_eq!(times(0, 61 * SECOND, 1), 0);
    }
}
