//! Conditional requests: RFC 9110, section 13.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use httpdate::HttpDate;

use super::{directory::FoundFile, encoding::Coding, reply::header_value};

/// What tells one state of a representation from another.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// A strong entity tag.
    pub(super) etag: HeaderValue,
    pub(super) modified: HttpDate,
}

/// What the preconditions make of a GET or HEAD.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// How entity tags are compared (RFC 9110 8.8.3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Strong,
    Weak,
}

impl Validators {
    /// Of the bytes of `file`, sent in `coding`: each coding is a representation with a tag of its own.
    pub(super) fn new(file: &FoundFile, coding: Option<Coding>) -> Self {
        let modified = file.modified.duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = modified.map_or(0, |since| since.as_nanos());
        let (len, (seconds, fraction)) = (file.len, file.changed);
        let mut etag = format!("\"{len:x}-{nanoseconds:x}-{seconds:x}.{fraction:x}");
        if let Some(coding) = coding {
            etag.push('-');
            etag.push_str(coding.name());
        }
        etag.push('"');
        // RFC 9110 8.8.2.1: never later than the response; and HTTP dates begin with 1970.
        let modified = file.modified.min(SystemTime::now()).max(SystemTime::UNIX_EPOCH);
        Self { etag: header_value(etag), modified: modified.into() }
    }
}

/// Evaluates the preconditions of a GET or HEAD in the order of RFC 9110 13.2.2, but for If-Range.
pub(super) fn evaluate(headers: &HeaderMap, current: &Validators) -> Outcome {
    let unchanged_since = |name| date(headers, name).map(|date| current.modified <= date);
    let unharmed = lists_tag(headers, header::IF_MATCH, current, Comparison::Strong)
        .or_else(|| unchanged_since(header::IF_UNMODIFIED_SINCE));
    if unharmed == Some(false) {
        return Outcome::Failed;
    }
    let known = lists_tag(headers, header::IF_NONE_MATCH, current, Comparison::Weak)
        .or_else(|| unchanged_since(header::IF_MODIFIED_SINCE));
    match known {
        Some(true) => Outcome::NotModified,
        Some(false) | None => Outcome::Proceed,
    }
}

/// Whether a range may be served: there is no If-Range, or what it names is what we have (RFC 9110 13.1.5).
pub(super) fn if_range_holds(headers: &HeaderMap, current: &Validators) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    // A weak tag equals none of ours, which are all strong. A date must be the same, not only later; whether it
    // is strong only the client can know, which must not send another.
    only(headers, header::IF_RANGE).is_some_and(|value| value == current.etag)
        || date(headers, header::IF_RANGE).is_some_and(|date| date == current.modified)
}

/// Whether the header lists the current tag, or is `*`. `None`: there is no such header.
fn lists_tag(
    headers: &HeaderMap,
    name: HeaderName,
    current: &Validators,
    comparison: Comparison,
) -> Option<bool> {
    if !headers.contains_key(&name) {
        return None;
    }
    let any = only(headers, name.clone()).is_some_and(|value| value.as_bytes().trim_ascii() == b"*");
    let listed = |value: &HeaderValue| {
        let mut rest = value.as_bytes();
        std::iter::from_fn(|| next_tag(&mut rest)).any(|(strength, tag)| {
            tag == current.etag.as_bytes()
                && (strength == Comparison::Strong || comparison == Comparison::Weak)
        })
    };
    Some(any || headers.get_all(name).iter().any(listed))
}

/// The next tag of a list, with its quotes, which may hold commas. What is no tag ends the list.
fn next_tag<'a>(rest: &mut &'a [u8]) -> Option<(Comparison, &'a [u8])> {
    while let [b' ' | b'\t' | b',', tail @ ..] = rest {
        *rest = tail;
    }
    let (strength, tag) = match rest.strip_prefix(b"W/") {
        Some(tag) => (Comparison::Weak, tag),
        None => (Comparison::Strong, *rest),
    };
    let opaque = tag.strip_prefix(b"\"")?;
    let end = opaque.iter().position(|byte| *byte == b'"')?;
    *rest = &opaque[end + 1..];
    Some((strength, &tag[..end + 2]))
}

/// A date header's date. What is no HTTP date, or stands there twice, is ignored (RFC 9110 13.1.3, 13.1.4).
fn date(headers: &HeaderMap, name: HeaderName) -> Option<HttpDate> {
    only(headers, name)?.to_str().ok()?.parse().ok()
}

/// The one value of a header. `None`: there is none, or more than one.
pub(super) fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sat, 29 Oct 1994 19:43:30 GMT";
    const SAME: &str = "Sat, 29 Oct 1994 19:43:31 GMT";
    const AFTER: &str = "Sat, 29 Oct 1994 19:43:32 GMT";

    fn current() -> Validators {
        Validators { etag: HeaderValue::from_static("\"a,b\""), modified: SAME.parse().unwrap() }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn outcome(lines: &[(&'static str, &str)]) -> Outcome {
        evaluate(&headers(lines), &current())
    }

    #[test]
    fn if_none_match_compares_weakly_and_reads_lists() {
        assert_eq!(outcome(&[]), Outcome::Proceed);
        for list in ["\"a,b\"", "W/\"a,b\"", "\"x\", \"a,b\"", "\"x\" ,,\tW/\"a,b\"", "*", " * "] {
            assert_eq!(outcome(&[("if-none-match", list)]), Outcome::NotModified, "{list}");
        }
        for list in ["", "\"a\"", "\"b\"", "a,b", "\"a,b", "w/\"a,b\"", "\"A,B\"", "\"x\", *", "x, \"a,b\""] {
            assert_eq!(outcome(&[("if-none-match", list)]), Outcome::Proceed, "{list}");
        }
        let lines = [("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")];
        assert_eq!(outcome(&lines), Outcome::NotModified);
    }

    #[test]
    fn if_match_compares_strongly() {
        for list in ["\"a,b\"", "*", "\"x\", \"a,b\""] {
            assert_eq!(outcome(&[("if-match", list)]), Outcome::Proceed, "{list}");
        }
        for list in ["W/\"a,b\"", "\"x\"", "", "junk"] {
            assert_eq!(outcome(&[("if-match", list)]), Outcome::Failed, "{list}");
        }
    }

    #[test]
    fn dates_are_compared_by_the_second_and_ignored_when_they_are_none() {
        for (date, since, unmodified) in [
            (BEFORE, Outcome::Proceed, Outcome::Failed),
            (SAME, Outcome::NotModified, Outcome::Proceed),
            (AFTER, Outcome::NotModified, Outcome::Proceed),
            // The obsolete forms that a recipient must read.
            ("Saturday, 29-Oct-94 19:43:31 GMT", Outcome::NotModified, Outcome::Proceed),
            ("Sat Oct 29 19:43:30 1994", Outcome::Proceed, Outcome::Failed),
            ("yesterday", Outcome::Proceed, Outcome::Proceed),
        ] {
            assert_eq!(outcome(&[("if-modified-since", date)]), since, "{date}");
            assert_eq!(outcome(&[("if-unmodified-since", date)]), unmodified, "{date}");
        }
        let twice = [("if-modified-since", AFTER), ("if-modified-since", AFTER)];
        assert_eq!(outcome(&twice), Outcome::Proceed);
    }

    #[test]
    fn tags_go_before_dates_and_failure_before_304() {
        for (lines, expected) in [
            ([("if-match", "\"a,b\""), ("if-unmodified-since", BEFORE)], Outcome::Proceed),
            ([("if-match", "\"x\""), ("if-unmodified-since", AFTER)], Outcome::Failed),
            ([("if-none-match", "\"x\""), ("if-modified-since", AFTER)], Outcome::Proceed),
            ([("if-none-match", "\"a,b\""), ("if-modified-since", BEFORE)], Outcome::NotModified),
            ([("if-match", "\"x\""), ("if-none-match", "\"a,b\"")], Outcome::Failed),
            ([("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")], Outcome::NotModified),
            ([("if-unmodified-since", BEFORE), ("if-none-match", "\"a,b\"")], Outcome::Failed),
            ([("if-unmodified-since", SAME), ("if-modified-since", SAME)], Outcome::NotModified),
        ] {
            assert_eq!(outcome(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn if_range_holds_for_the_very_same_state_alone() {
        let holds = |lines: &[(&'static str, &str)]| if_range_holds(&headers(lines), &current());
        assert!(holds(&[]));
        assert!(holds(&[("if-range", "\"a,b\"")]));
        assert!(holds(&[("if-range", SAME)]));
        for value in ["W/\"a,b\"", "\"x\"", "\"a,b\", \"x\"", "*", "", BEFORE, AFTER, "yesterday"] {
            assert!(!holds(&[("if-range", value)]), "{value}");
        }
        assert!(!holds(&[("if-range", "\"a,b\""), ("if-range", "\"a,b\"")]));
    }
}
