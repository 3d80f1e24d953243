//! A config file's text, and how a place in it is shown without the secrets beside it.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;

use super::{FileRead, error::distance};

/// A config file. `Debug` shows its path alone: the text holds the secret prefix and proxy passwords.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

/// Where a value was given.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On the command line, with this flag, or with this variable in its place.
    Flag(&'static str),
    /// In a file, at these bytes.
    Text(Arc<Source>, Range<usize>),
    /// In a file, by not being there.
    File(Arc<Source>),
}

/// One line of a file, fit to be shown.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Excerpt {
    /// Counted from 1.
    pub(crate) number: usize,
    /// The line with `…` for its secrets; empty where no part of it can be told from a secret.
    pub(crate) line: String,
    /// The bytes of `line` that are pointed at.
    pub(crate) span: Range<usize>,
}

/// What of a line is hidden besides its known secrets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hide {
    Nothing,
    /// The value of the key that is pointed at: under a name that nobody knows it may be a secret.
    Value,
}

impl Source {
    pub(crate) fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Which file this is, for whoever asks later whether it is still the same.
    pub(crate) fn file_read(&self) -> FileRead {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        FileRead { path, sha256: sha256(self.text.as_bytes()) }
    }

    /// The first line of `place`, with the part of `place` that lies on it.
    pub(crate) fn excerpt(&self, place: &Range<usize>, hide: Hide) -> Excerpt {
        let text = self.text.as_str();
        let mut start = text.floor_char_boundary(place.start);
        if start == text.len() && text.ends_with('\n') {
            // The file's end is shown as the end of its last line.
            start = text.trim_end_matches(['\r', '\n']).len();
        }
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let end = text.ceil_char_boundary(place.end.clamp(start, line_end));
        let span = (start - line_start).min(line.len())..(end - line_start).min(line.len());

        let number = text[..line_start].matches('\n').count() + 1;
        if in_multiline_string(&text[..line_start]) {
            return Excerpt { number, line: String::new(), span: 0..0 };
        }
        let secret = match hide {
            Hide::Nothing => secret(line),
            Hide::Value => value_after(line, span.end),
        };
        match secret {
            Some(secret) => masked(number, line, span, secret),
            None => Excerpt { number, line: line.to_owned(), span },
        }
    }
}

/// The digest of a file's bytes, as sha256sum writes it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether what follows `text` continues a string that was opened with three quotes. Approximate towards
/// hiding: only the opening line of such a string is ever shown.
fn in_multiline_string(text: &str) -> bool {
    [r#"""""#, "'''"].iter().any(|quotes| text.matches(quotes).count() % 2 == 1)
}

/// What follows the first `=` after `key_end`, to the end of the line.
fn value_after(line: &str, key_end: usize) -> Option<Range<usize>> {
    let rest = line[key_end..].trim_end();
    let value = rest[rest.find('=')? + 1..].trim_start();
    let end = key_end + rest.len();
    Some(end - value.len()..end).filter(|value| !value.is_empty())
}

/// The part of a line that is secret: what follows the name of the secret prefix, also where the name is
/// misspelled, and the user info of a URL.
fn secret(line: &str) -> Option<Range<usize>> {
    let end = line.trim_end().len();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let mut at = 0;
    for word in line.split(|c: char| !is_word(c)) {
        let after = at + word.len();
        if names_the_prefix(word) {
            let separators = line[after..end].len()
                - line[after..end].trim_start_matches([' ', '\t', '=', ':', '"', '\'']).len();
            return Some(after + separators..end).filter(|value| !value.is_empty());
        }
        // Words are parted by one character each.
        at = after + line[after..].chars().next().map_or(0, char::len_utf8);
    }
    let user_info_end = line.rfind('@')?;
    let before = &line[..user_info_end];
    let start = match before.find("://") {
        Some(scheme) => scheme + "://".len(),
        None => before.find(['"', '\'']).or(before.find('=')).map_or(0, |open| open + 1),
    };
    Some(start..user_info_end)
}

/// Whether a word is `uri_prefix`, or may be meant as it.
fn names_the_prefix(word: &str) -> bool {
    let word = word.to_lowercase();
    !matches!(word.as_str(), "prefix" | "only_below_prefix")
        && (word.contains("prefix") || distance(&word, "uri_prefix") <= 3)
}

fn masked(number: usize, line: &str, span: Range<usize>, secret: Range<usize>) -> Excerpt {
    const MASK: &str = "…";
    let shown = format!("{}{MASK}{}", &line[..secret.start], &line[secret.end..]);
    let moved = |at: usize, inside: usize| {
        if at <= secret.start {
            at
        } else if at < secret.end {
            secret.start + inside
        } else {
            at - secret.len() + MASK.len()
        }
    };
    Excerpt { number, span: moved(span.start, 0)..moved(span.end, MASK.len()), line: shown }
}

impl Place {
    /// The line in its file, counted from 1.
    pub(crate) fn line(&self) -> Option<usize> {
        match self {
            Self::Text(source, span) => Some(source.excerpt(span, Hide::Nothing).number),
            Self::Flag(_) | Self::File(_) => None,
        }
    }

    /// The order in which places are told: flags, then each file from its top to its end.
    pub(crate) fn order(&self) -> (Option<&Path>, usize) {
        match self {
            Self::Flag(_) => (None, 0),
            Self::File(source) => (Some(source.path()), 0),
            Self::Text(source, span) => (Some(source.path()), span.start),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_place_in_any_text_can_be_shown(
            text in "[a-z=\"'@é\r\n\t ]{0,40}(uri_prefix|://)?[a-z=\"@é\r\n]{0,20}",
            start in 0_usize..80,
            length in 0_usize..80,
            value in any::<bool>(),
        ) {
            let hide = if value { Hide::Value } else { Hide::Nothing };
            let excerpt = Source::new("f", text).excerpt(&(start..start + length), hide);
            prop_assert!(excerpt.line.get(excerpt.span).is_some());
        }
    }

    fn excerpt(text: &str, place: &str, hide: Hide) -> (usize, String, String) {
        let start = text.find(place).unwrap();
        let excerpt = Source::new("f", text).excerpt(&(start..start + place.len()), hide);
        let pointed_at = excerpt.line[excerpt.span.clone()].to_owned();
        (excerpt.number, excerpt.line, pointed_at)
    }

    #[test]
    fn a_place_is_shown_as_its_first_line() {
        let text = "a = 1\r\nb = [\r\n  2,\r\n]\r\n";
        assert_eq!(excerpt(text, "[\r\n  2", Hide::Nothing), (2, "b = [".to_owned(), "[".to_owned()));
        let end = Source::new("f", "a = 1\nb =\n").excerpt(&(10..10), Hide::Nothing);
        assert_eq!((end.number, end.line.as_str(), end.span), (2, "b =", 3..3));
        let empty = Source::new("f", "").excerpt(&(0..0), Hide::Nothing);
        assert_eq!((empty.number, empty.span), (1, 0..0));
    }

    #[test]
    fn secrets_on_the_line_are_masked_and_the_caret_stays_right() {
        for (text, place, line, pointed_at) in [
            ("uri_prefix = \"s3cret/x\"", "\"s3cret/x\"", "uri_prefix = \"…", "\"…"),
            ("uri-prefix: s3cret", ":", "uri-prefix: …", ":"),
            ("Uri_Prefx = \"s3cret\" # c", "Uri_Prefx", "Uri_Prefx = \"…", "Uri_Prefx"),
            ("x = { uriprefix = \"s3cret\", port = 70000 }", "70000", "x = { uriprefix = \"…", "…"),
            ("url = \"socks5://us:s3cret@h:1\" x", " x", "url = \"socks5://…@h:1\" x", " x"),
            ("url = \"us:s3c@ret@h\"", "\"us", "url = \"…@h\"", "\"…"),
        ] {
            assert_eq!(
                excerpt(text, place, Hide::Nothing),
                (1, line.to_owned(), pointed_at.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn ordinary_prefixes_are_no_secret() {
        for line in ["prefix = \"/api\"", "only_below_prefix = 1", "host = \"h\""] {
            assert_eq!(secret(line), None, "{line}");
        }
    }

    #[test]
    fn the_value_of_an_unknown_key_is_hidden() {
        assert_eq!(
            excerpt("passwort = \"s3cret\"", "passwort", Hide::Value),
            (1, "passwort = …".to_owned(), "passwort".to_owned())
        );
        assert_eq!(
            excerpt("[tls.acme]", "acme", Hide::Value),
            (1, "[tls.acme]".to_owned(), "acme".to_owned())
        );
    }

    #[test]
    fn the_inside_of_a_multi_line_string_is_not_shown() {
        let text = "uri_prefix = \"\"\"\ns3cret\n";
        assert_eq!(excerpt(text, "s3cret", Hide::Nothing), (2, String::new(), String::new()));
    }

    #[test]
    fn debug_shows_the_path_alone() {
        assert_eq!(format!("{:?}", Source::new("f", "s3cret")), "Source(f)");
    }
}
