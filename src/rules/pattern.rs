//! One compiled prefix: literal segments, and segments with `*`.

use std::fmt;

/// A prefix of the config with `/<uri_prefix>` before it, compiled for matching.
///
/// Matches a path that equals it and every path below it. `*` stands for any run of characters, empty too,
/// inside one segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pattern {
    text: Box<str>,
    /// The segments when any of them has a `*`; a literal prefix is compared as a whole.
    segments: Option<Box<[Segment]>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    Literal(Box<str>),
    /// The literal runs around each `*`: `a*b` is `["a", "b"]`.
    Glob(Box<[Box<str>]>),
}

/// Why a prefix is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PatternError {
    NoLeadingSlash,
    EmptySegment,
    DotSegment,
    /// A character that a canonical path never has: a control character or a backslash.
    Impossible,
}

impl Pattern {
    /// Compiles `prefix`, as written in the config, below `uri_prefix` (empty, or `/` and one segment).
    pub(crate) fn new(uri_prefix: &str, prefix: &str) -> Result<Self, PatternError> {
        let below = prefix.strip_prefix('/').ok_or(PatternError::NoLeadingSlash)?;
        for segment in below.split('/') {
            match segment {
                "" => return Err(PatternError::EmptySegment),
                "." | ".." => return Err(PatternError::DotSegment),
                _ if segment.contains(|c: char| c.is_ascii_control() || c == '\\') => {
                    return Err(PatternError::Impossible);
                }
                _ => {}
            }
        }
        // Only `prefix` may hold wildcards: a `*` in the secret prefix would be a character like any other,
        // and `UriPrefix` refuses it.
        let text = format!("{uri_prefix}{prefix}").into_boxed_str();
        let segments = text.contains('*').then(|| text.split('/').map(Segment::new).collect());
        Ok(Self { text, segments })
    }

    /// The whole pattern, the secret prefix included: for matching, not for logs.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the decoded `path` is this prefix or lies below it.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match &self.segments {
            None => {
                path.strip_prefix(&*self.text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Some(segments) => {
                let mut parts = path.split('/');
                segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
            }
        }
    }
}

impl Segment {
    fn new(text: &str) -> Self {
        if text.contains('*') {
            Self::Glob(text.split('*').map(Box::from).collect())
        } else {
            Self::Literal(text.into())
        }
    }

    fn matches(&self, part: &str) -> bool {
        match self {
            Self::Literal(text) => part == &**text,
            Self::Glob(runs) => glob(runs, part),
        }
    }
}

/// The first run is at the start, the last at the end, each between them at the first place it can be: with
/// nothing but `*` between runs the leftmost place is never worse, so there is no backtracking.
fn glob(runs: &[Box<str>], part: &str) -> bool {
    let [first, middle @ .., last] = runs else {
        return false;
    };
    let Some(rest) = part.strip_prefix(&**first) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(&**last) else {
        return false;
    };
    middle.iter().all(|run| match rest.find(&**run) {
        Some(at) => {
            rest = &rest[at + run.len()..];
            true
        }
        None => false,
    })
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeadingSlash => "a prefix begins with `/`",
            Self::EmptySegment => "a prefix has no empty segment: no `//` and no `/` at its end",
            Self::DotSegment => "a prefix has no `.` or `..` segment",
            Self::Impossible => "no path that is let in has a backslash or a control character",
        })
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(prefix: &str, path: &str) -> bool {
        Pattern::new("", prefix).unwrap().matches(path)
    }

    #[test]
    fn a_prefix_matches_itself_and_what_is_below_it() {
        assert!(matches("/pfp", "/pfp"));
        assert!(matches("/pfp", "/pfp/"));
        assert!(matches("/pfp", "/pfp/1"));
        assert!(!matches("/pfp", "/pfpx"));
        assert!(!matches("/pfp", "/"));
    }

    #[test]
    fn a_star_stays_inside_its_segment() {
        for (prefix, path, expected) in [
            ("/channel/*/call", "/channel/a/call", true),
            ("/channel/*/call", "/channel//call", true),
            ("/channel/*/call", "/channel/a/call/signal", true),
            ("/channel/*/call", "/channel/call", false),
            ("/channel/*/call", "/channel/a/b/call", false),
            ("/channel/*/call", "/channel/a/callx", false),
            ("/a*a", "/aba", true),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("/*b*/m", "/abc/m", true),
            ("/*b*/m", "/b/m", true),
            ("/*b*/m", "/ac/m", false),
            ("/a*bc*bc", "/abcbc", true),
            ("/a*bc*bc", "/abc", false),
            ("/*", "/", true),
        ] {
            assert_eq!(matches(prefix, path), expected, "{prefix} on {path}");
        }
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for (prefix, error) in [
            ("api", PatternError::NoLeadingSlash),
            ("", PatternError::NoLeadingSlash),
            ("/", PatternError::EmptySegment),
            ("/api/", PatternError::EmptySegment),
            ("/api//v1", PatternError::EmptySegment),
            ("/api/../v1", PatternError::DotSegment),
            ("/a\\b", PatternError::Impossible),
        ] {
            assert_eq!(Pattern::new("", prefix), Err(error), "{prefix}");
        }
    }

    /// The plainest possible matcher, to hold the other against.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
            ([p, pattern @ ..], [t, text @ ..]) => p == t && naive(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn glob_agrees_with_the_naive_matcher(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
            let expected = naive(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(Segment::new(&pattern).matches(&text), expected);
        }
    }
}
