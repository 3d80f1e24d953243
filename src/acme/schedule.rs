//! When a certificate is renewed, and when a failed try is repeated. Time and chance are arguments.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::tls::certificate::Validity;

/// When the CA wants a certificate to be renewed (RFC 9773).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Window {
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) end: OffsetDateTime,
}

/// Below this lifetime half of it is left for tries, instead of a third.
const SHORT_LIVED: Duration = Duration::days(10);

/// When a certificate is due for which the CA names no window: at two thirds of its life, at half of a short one.
///
/// `random` in 0..1 moves it up to a fiftieth of the life ahead: what was issued together is not renewed together.
pub(crate) fn renewal(validity: Validity, random: f64) -> OffsetDateTime {
    let life = validity.lifetime();
    let due = if life < SHORT_LIVED { life / 2 } else { life * 2 / 3 };
    validity.not_before + due - life * (random / 50.0)
}

/// A random point in the CA's window, as RFC 9773, section 4.2, wants it; `None`: it is no window.
pub(crate) fn renewal_within(window: Window, random: f64) -> Option<OffsetDateTime> {
    let width = window.end - window.start;
    width.is_positive().then(|| window.start + width * random)
}

/// When to ask for the window again: when the CA says, but neither at once nor in more than a day
/// (RFC 9773, section 4.3.2).
pub(crate) fn next_look(now: OffsetDateTime, retry_after: std::time::Duration) -> OffsetDateTime {
    let asked = Duration::try_from(retry_after).unwrap_or(Duration::DAY);
    now + asked.clamp(Duration::MINUTE, Duration::DAY)
}

/// The first waits after a failure, in minutes; then each is twice the one before.
const FIRST_WAITS: [i64; 5] = [1, 2, 5, 10, 30];
const LONGEST_WAIT: Duration = Duration::hours(6);

/// How long to wait after the `failures`-th failure in a row. `random` in 0..1 adds up to a tenth.
pub(crate) fn back_off(failures: u32, random: f64) -> Duration {
    let nth = usize::try_from(failures.max(1) - 1).unwrap_or(usize::MAX);
    let wait = match FIRST_WAITS.get(nth) {
        Some(minutes) => Duration::minutes(*minutes),
        None => {
            let doublings = u32::try_from(nth - (FIRST_WAITS.len() - 1)).unwrap_or(u32::MAX);
            let factor = 2_i32.checked_pow(doublings).unwrap_or(i32::MAX);
            Duration::minutes(30).checked_mul(factor).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
        }
    };
    wait + wait * (random / 10.0)
}

/// What a CA may ask us to wait at the most: Let's Encrypt's limits are counted over a week.
const LONGEST_HOLD: Duration = Duration::days(7);

/// Until when a CA is left alone that asked to come back at `retry_after`.
pub(crate) fn hold(now: OffsetDateTime, retry_after: OffsetDateTime) -> OffsetDateTime {
    retry_after.clamp(now, now + LONGEST_HOLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-07-01 00:00 UTC);

    fn life(length: Duration) -> Validity {
        Validity { not_before: START, not_after: START + length }
    }

    #[test]
    fn renewal_is_at_two_thirds_of_the_life_and_at_half_of_a_short_one() {
        assert_eq!(renewal(life(Duration::days(90)), 0.0), START + Duration::days(60));
        assert_eq!(renewal(life(Duration::days(10)), 0.0), START + Duration::days(10) * 2 / 3);
        assert_eq!(renewal(life(Duration::hours(160)), 0.0), START + Duration::hours(80));
        let latest = renewal(life(Duration::days(100)), 0.0);
        let earliest = renewal(life(Duration::days(100)), 1.0);
        assert_eq!(latest - earliest, Duration::days(2));
    }

    #[test]
    fn a_window_is_hit_anywhere_inside_and_a_backward_one_is_none() {
        let window = Window { start: START, end: START + Duration::days(2) };
        assert_eq!(renewal_within(window, 0.0), Some(START));
        assert_eq!(renewal_within(window, 0.5), Some(START + Duration::days(1)));
        let backward = Window { start: window.end, end: window.start };
        assert_eq!(renewal_within(backward, 0.5), None);
    }

    #[test]
    fn the_window_is_asked_for_when_the_ca_says_within_reason() {
        let seconds = std::time::Duration::from_secs;
        assert_eq!(next_look(START, seconds(6 * 3600)), START + Duration::hours(6));
        assert_eq!(next_look(START, seconds(0)), START + Duration::MINUTE);
        assert_eq!(next_look(START, std::time::Duration::MAX), START + Duration::DAY);
    }

    #[test]
    fn waits_grow_to_six_hours_and_no_further() {
        let minutes: Vec<_> = (0..=12).map(|nth| back_off(nth, 0.0).whole_minutes()).collect();
        assert_eq!(minutes, [1, 1, 2, 5, 10, 30, 60, 120, 240, 360, 360, 360, 360]);
        assert_eq!(back_off(u32::MAX, 0.0), LONGEST_WAIT);
        assert_eq!(back_off(1, 1.0), Duration::seconds(66));
    }

    #[test]
    fn k11_a_ca_is_left_alone_as_long_as_it_asks_but_a_week_at_the_most() {
        let hour = START + Duration::HOUR;
        assert_eq!(hold(START, hour), hour);
        assert_eq!(hold(hour, START), hour);
        assert_eq!(hold(START, START + Duration::days(400)), START + Duration::WEEK);
    }
}
