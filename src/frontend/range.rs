//! Byte ranges: RFC 9110, section 14.

use http::{HeaderMap, header};

use super::conditional::only;

/// What of a representation is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Span {
    Whole,
    /// 206; `len` is not 0.
    Part {
        first: u64,
        len: u64,
    },
    /// 416.
    Unsatisfiable,
}

/// What the `Range` header asks of `len` bytes.
///
/// More than one range, another unit, or what is no range is answered with the whole: a server may ignore any
/// Range (RFC 9110 14.2), and a reply in many small parts costs more than the file.
pub(super) fn requested(headers: &HeaderMap, len: u64) -> Span {
    only(headers, header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse(value, len))
        .unwrap_or(Span::Whole)
}

/// `None`: not one valid range of bytes.
fn parse(value: &str, len: u64) -> Option<Span> {
    let (unit, range) = value.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
    let (first, last) = match (first, last) {
        ("", suffix) => match position(suffix)? {
            0 => return Some(Span::Unsatisfiable),
            // There is no Content-Range for a part of nothing.
            _ if len == 0 => return Some(Span::Whole),
            suffix => (len.saturating_sub(suffix), len - 1),
        },
        (first, "") => (position(first)?, u64::MAX),
        (first, last) => (position(first)?, position(last)?),
    };
    if first > last {
        return None;
    }
    if first >= len {
        return Some(Span::Unsatisfiable);
    }
    let last = last.min(len - 1);
    Some(Span::Part { first, len: last - first + 1 })
}

/// Digits alone; a number beyond `u64` lies behind every file.
fn position(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ten(value: &str) -> Span {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, value.parse().unwrap());
        requested(&headers, 10)
    }

    #[test]
    fn one_range_is_a_part() {
        for (value, first, len) in [
            ("bytes=0-0", 0, 1),
            ("bytes=0-9", 0, 10),
            ("bytes=3-", 3, 7),
            ("bytes=9-9", 9, 1),
            ("bytes=3-99", 3, 7),
            ("bytes=3-99999999999999999999999", 3, 7),
            ("bytes=-1", 9, 1),
            ("bytes=-10", 0, 10),
            ("bytes=-11", 0, 10),
            ("bytes=-99999999999999999999999", 0, 10),
            ("BYTES=007-8", 7, 2),
            ("bytes= 1-2 ", 1, 2),
        ] {
            assert_eq!(of_ten(value), Span::Part { first, len }, "{value}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-12", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(of_ten(value), Span::Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn what_is_not_one_valid_range_is_the_whole() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=1--2",
            "bytes=--1",
            "bytes=0x1-2",
            "bytes=1 -2",
            "bytes =1-2",
            "items=0-1",
            "bytes=0-1,4-5",
            "bytes=0-1,",
        ] {
            assert_eq!(of_ten(value), Span::Whole, "{value}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::RANGE, "bytes=0-1".parse().unwrap());
        twice.append(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(requested(&twice, 10), Span::Whole);
    }

    #[test]
    fn nothing_has_no_part() {
        for (value, span) in
            [("bytes=0-", Span::Unsatisfiable), ("bytes=-0", Span::Unsatisfiable), ("bytes=-5", Span::Whole)]
        {
            assert_eq!(parse(value, 0), Some(span), "{value}");
        }
    }
}
