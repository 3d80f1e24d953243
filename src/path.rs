//! The canonical path: what the backend will understand, decoded once, or refused.
//!
//! Rules are matched on what Flask will see, not on the raw bytes. Flask decodes `%2f` and `%61`, merges
//! slashes and leaves dot segments alone; another backend may do otherwise. So a path that two parsers could
//! read in two ways is refused, and what was matched is exactly what is sent.

use std::fmt;

/// A request path, decoded once and free of everything that two parsers could read in two ways.
///
/// Always begins with `/`, has no empty segment but perhaps a last one, no `.` or `..` segment, no backslash
/// and no control character.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CanonicalPath {
    decoded: Box<str>,
    /// The percent-encoded form, where it differs from `decoded`.
    encoded: Option<Box<str>>,
}

/// Why a path has no canonical form (attacks.md P1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PathError {
    /// Does not begin with a slash.
    NotAbsolute,
    /// A `%` that two hexadecimal digits do not follow.
    BadEscape,
    /// `%2f`: a slash for some parsers, a part of a segment for others.
    EncodedSlash,
    /// A backslash, plain or encoded: Windows-minded parsers take it for a slash.
    Backslash,
    /// A control character, NUL included.
    Control,
    /// A `.` or `..` segment, plain or encoded.
    DotSegment,
    /// Not UTF-8 after decoding.
    NotUtf8,
}

impl CanonicalPath {
    /// Parses the path part of a request target; the query must be off already.
    pub(crate) fn parse(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let decoded = decode(raw.as_bytes())?;
        if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(PathError::DotSegment);
        }
        let encoded = decoded.bytes().any(|byte| !is_path_byte(byte)).then(|| encode(&decoded));
        Ok(Self { decoded, encoded })
    }

    /// The decoded path, for matching and for the file system.
    pub(crate) fn decoded(&self) -> &str {
        &self.decoded
    }

    /// The path as it goes upstream and into logs: ASCII, RFC 3986 `pchar` and `/` only.
    pub(crate) fn encoded(&self) -> &str {
        self.encoded.as_deref().unwrap_or(&self.decoded)
    }
}

fn decode(raw: &[u8]) -> Result<Box<str>, PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let byte = match byte {
            b'%' => {
                let [high, low, tail @ ..] = rest else {
                    return Err(PathError::BadEscape);
                };
                rest = tail;
                let byte = hex(*high)? << 4 | hex(*low)?;
                if byte == b'/' {
                    return Err(PathError::EncodedSlash);
                }
                byte
            }
            b'/' if decoded.last() == Some(&b'/') => continue,
            plain => *plain,
        };
        match byte {
            b'\\' => return Err(PathError::Backslash),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map(String::into_boxed_str).map_err(|_| PathError::NotUtf8)
}

fn hex(digit: u8) -> Result<u8, PathError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(PathError::BadEscape),
    }
}

/// RFC 3986 `pchar`, and the slash between segments.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

fn encode(decoded: &str) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(decoded.len() * 3);
    for byte in decoded.bytes() {
        if is_path_byte(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded.into_boxed_str()
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with a slash",
            Self::BadEscape => "a percent sign without two hexadecimal digits",
            Self::EncodedSlash => "an encoded slash in the path",
            Self::Backslash => "a backslash in the path",
            Self::Control => "a control character in the path",
            Self::DotSegment => "a dot segment in the path",
            Self::NotUtf8 => "the path is not UTF-8",
        })
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(raw: &str) -> Result<String, PathError> {
        CanonicalPath::parse(raw).map(|path| path.decoded().to_owned())
    }

    #[test]
    fn p1_what_is_plain_stays_as_it_is() {
        for raw in ["/", "/api/v1", "/api/v1/", "/a.b/..c/...", "/a;x=1", "/a+b", "/~u/@x:y"] {
            let path = CanonicalPath::parse(raw).unwrap();
            assert_eq!((path.decoded(), path.encoded()), (raw, raw));
        }
    }

    #[test]
    fn p1_escapes_are_decoded_once() {
        assert_eq!(canonical("/%61pi/v1"), Ok("/api/v1".into()));
        assert_eq!(canonical("/a%252e%252e/b"), Ok("/a%2e%2e/b".into()));
        assert_eq!(CanonicalPath::parse("/a%252e").unwrap().encoded(), "/a%252e");
        assert_eq!(CanonicalPath::parse("/%D8%b9").unwrap().encoded(), "/%D8%B9");
        assert_eq!(CanonicalPath::parse("/a%3fb%23c").unwrap().encoded(), "/a%3Fb%23c");
    }

    #[test]
    fn p1_runs_of_slashes_are_one() {
        assert_eq!(canonical("//api///v1//"), Ok("/api/v1/".into()));
    }

    #[test]
    fn p1_what_can_be_read_in_two_ways_is_refused() {
        for (raw, error) in [
            ("api", PathError::NotAbsolute),
            ("", PathError::NotAbsolute),
            ("/api%2fv1", PathError::EncodedSlash),
            ("/api%2Fv1", PathError::EncodedSlash),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/a%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a%zz", PathError::BadEscape),
            ("/a%2", PathError::BadEscape),
            ("/a%", PathError::BadEscape),
            ("/./a", PathError::DotSegment),
            ("/a/..", PathError::DotSegment),
            ("/a/%2e%2e/b", PathError::DotSegment),
            ("/a/.%2E", PathError::DotSegment),
            ("/%c0%af", PathError::NotUtf8),
        ] {
            assert_eq!(canonical(raw), Err(error), "{raw}");
        }
    }

    proptest! {
        /// What is sent is read back as what was matched.
        #[test]
        fn p1_the_encoded_form_means_the_same(raw in "/[ -~é]{0,40}") {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                prop_assert!(path.encoded().is_ascii());
                let again = CanonicalPath::parse(path.encoded()).unwrap();
                prop_assert_eq!(again.decoded(), path.decoded());
            }
        }
    }
}
