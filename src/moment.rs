//! A moment for people.

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// To the second: `2026-07-01T12:00:00Z`.
pub(crate) fn moment(moment: OffsetDateTime) -> String {
    let second = moment.to_offset(UtcOffset::UTC).replace_nanosecond(0);
    // Zero is a nanosecond, and only years beyond 9999 have no such text.
    second.map(|second| second.format(&Rfc3339).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_moment_is_told_to_the_second_in_utc() {
        assert_eq!(moment(datetime!(2026-07-01 14:00:00.123 +2)), "2026-07-01T12:00:00Z");
    }
}
