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
    Some(Span::Part {
        first,
        len: last - first + 1,
    })
}

/// Digits alone; a number beyond `u64` lies behind every file.
fn position(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}
