//! How long to wait before another try, and a little chance in it, so that many do not try at one instant.

use std::{ops::Range, time::Duration};

use aws_lc_rs::rand;

/// Pauses that double from the first to the longest, each a fifth longer or shorter by chance.
pub(crate) struct Pace {
    next: Duration,
    longest: Duration,
}

impl Pace {
    pub(crate) fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first, longest }
    }

    /// The pause before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        between(pause * 4 / 5..pause * 6 / 5)
    }
}

/// A duration of the range, by chance.
pub(crate) fn between(range: Range<Duration>) -> Duration {
    let mut random = [0; 4];
    // Without randomness all wait the same: that is worse, and no reason to fail.
    let chance = match rand::fill(&mut random) {
        Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    };
    range.start + (range.end - range.start).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pace = Pace::new((Duration::from_millis(250), Duration::from_secs(5)));
        for expected in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            let pause = pace.next().as_millis();
            assert!((expected * 4 / 5..=expected * 6 / 5).contains(&pause), "{pause} for {expected}");
        }
    }

    #[test]
    fn chance_stays_in_its_range_and_is_one() {
        let range = Duration::from_millis(500)..Duration::from_secs(3);
        let drawn: std::collections::HashSet<_> = (0..100).map(|_| between(range.clone())).collect();
        assert!(drawn.len() > 90);
        assert!(drawn.iter().all(|duration| *duration >= range.start && *duration <= range.end));
    }
}
