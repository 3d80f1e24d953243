//! Conditional requests: RFC 9110, section 13.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use httpdate::HttpDate;

use super::{directory::FoundFile, encoding::Coding, header_value};

/// What tells one state of a representation from another.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// A strong entity tag.
    pub(super) etag: HeaderValue,
    modified: HttpDate,
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
        Self {
            etag: header_value(etag),
            modified: modified.into(),
        }
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::LAST_MODIFIED, header_value(self.modified.to_string()));
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
            tag == current.etag.as_bytes() && (strength == Comparison::Strong || comparison == Comparison::Weak)
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
