//! The bytes of HTTP/1 requests, read strictly before hyper reads them.
//!
//! Where two parsers find the end of a request in two places, a second request can hide in the first. hyper takes
//! bare LF for a line end, equal lengths twice, and a length beside a coding (it drops the length); this does
//! not. It finds the same boundaries as hyper, and refuses what another parser could find others in (RFC 9112
//! 2.2, 6.3, 7.1; attacks.md S1 to S7).

use std::fmt;

/// The longest chunk-size line, extensions included: nobody sends any.
const CHUNK_LINE: usize = 256;
/// The longest trailer section. Trailers are dropped, but have to be read.
const TRAILERS: usize = 8 << 10;

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Wire {
    state: State,
    /// What has come of a line or a head.
    partial: Vec<u8>,
    /// The largest head, in bytes.
    head_limit: usize,
    /// How many heads have been whole.
    heads: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Between two requests, or in a head.
    Head,
    /// In a body of which this many bytes are to come.
    Body(u64),
    ChunkLine,
    /// In a chunk of which this many bytes are to come.
    Chunk(u64),
    /// After a chunk.
    ChunkEnd,
    Trailers,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// Why bytes are no requests that can be read in one way only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// In a head, where hyper has not seen a request yet.
    Head(&'static str),
    /// In a chunked body.
    Body(&'static str),
}

impl Wire {
    /// Of a connection that begins now, with heads of at most `head_limit` bytes.
    pub(crate) fn new(head_limit: usize) -> Self {
        Self { state: State::Head, partial: Vec::new(), head_limit, heads: 0 }
    }

    /// How many heads have been whole.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// Whether nothing of a body is to come before the next head.
    pub(crate) fn is_between_requests_or_in_head(&self) -> bool {
        self.state == State::Head
    }

    /// Whether a head has begun and is not whole.
    pub(crate) fn is_in_head(&self) -> bool {
        self.state == State::Head && !self.partial.is_empty()
    }

    /// Follows the next bytes of the connection.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Head => self.head(bytes)?,
                State::Body(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.state = if left == 0 { State::Head } else { State::Body(left) };
                    rest
                }
                State::ChunkLine => self.chunk_line(bytes)?,
                State::Chunk(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    rest
                }
                State::ChunkEnd => self.chunk_end(bytes)?,
                State::Trailers => self.trailers(bytes)?,
            };
        }
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        // RFC 9112 2.2: an empty line before a request is to be ignored.
        if self.partial.is_empty() && bytes[0] == b'\r' {
            self.partial.push(b'\r');
            return Ok(&bytes[1..]);
        }
        if self.partial == b"\r" {
            self.partial.clear();
            return bytes.strip_prefix(b"\n").ok_or(Fault::Head("a line end that is not CRLF"));
        }
        let (taken, end) = until(&self.partial, bytes, b"\r\n\r\n");
        self.partial.extend_from_slice(&bytes[..taken]);
        if has_bare_line_end(&self.partial) {
            return Err(Fault::Head("a line end that is not CRLF"));
        }
        if self.partial.len() > self.head_limit {
            // hyper has a limit of its own, and a better answer: 431.
            self.partial.truncate(self.head_limit);
            return Ok(&[]);
        }
        if end {
            let framing = framing(&self.partial[..self.partial.len() - 2]).map_err(Fault::Head)?;
            self.partial.clear();
            self.heads += 1;
            self.state = match framing {
                Framing::Length(0) => State::Head,
                Framing::Length(length) => State::Body(length),
                Framing::Chunked => State::ChunkLine,
            };
        }
        Ok(&bytes[taken..])
    }

    fn chunk_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let (rest, end) = self.line(bytes, CHUNK_LINE)?;
        if end {
            let size = chunk_size(&self.partial[..self.partial.len() - 2]).map_err(Fault::Body)?;
            self.partial.clear();
            self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        }
        Ok(rest)
    }

    fn chunk_end<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let (rest, end) = self.line(bytes, 2)?;
        if end {
            self.partial.clear();
            self.state = State::ChunkLine;
        }
        Ok(rest)
    }

    /// Lines up to an empty one.
    fn trailers<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        // The line end of the last chunk was consumed; an empty section is CRLF alone.
        let pattern: &[u8] = if self.partial.is_empty() && bytes.starts_with(b"\r") || self.partial == b"\r" {
            b"\r\n"
        } else {
            b"\r\n\r\n"
        };
        let (taken, end) = until(&self.partial, bytes, pattern);
        self.partial.extend_from_slice(&bytes[..taken]);
        if has_bare_line_end(&self.partial) {
            return Err(Fault::Body("a line end that is not CRLF in the trailers"));
        }
        if self.partial.len() > TRAILERS {
            return Err(Fault::Body("too many trailers"));
        }
        if end {
            let section = &self.partial[..self.partial.len() - 2];
            lines(section).try_for_each(|line| header(line).map(drop)).map_err(Fault::Body)?;
            self.partial.clear();
            self.state = State::Head;
        }
        Ok(&bytes[taken..])
    }

    /// Takes bytes up to a line end, which must be within `limit`.
    fn line<'a>(&mut self, bytes: &'a [u8], limit: usize) -> Result<(&'a [u8], bool), Fault> {
        let (taken, end) = until(&self.partial, bytes, b"\r\n");
        self.partial.extend_from_slice(&bytes[..taken]);
        if has_bare_line_end(&self.partial) {
            return Err(Fault::Body("a line end that is not CRLF in a chunked body"));
        }
        if self.partial.len() > limit {
            return Err(Fault::Body(
                "a chunk that does not end where it said, or a chunk line that is too long",
            ));
        }
        Ok((&bytes[taken..], end))
    }
}

/// How many of `bytes` come up to the end of the first `pattern`, which may have begun in `before`; and whether it
/// is there.
fn until(before: &[u8], bytes: &[u8], pattern: &[u8]) -> (usize, bool) {
    let overlap = before.len().min(pattern.len() - 1);
    let start = before.len() - overlap;
    let mut joint = before[start..].to_vec();
    joint.extend_from_slice(&bytes[..bytes.len().min(pattern.len() - 1)]);
    if let Some(at) = memchr::memmem::find(&joint, pattern) {
        return (at + pattern.len() - overlap, true);
    }
    match memchr::memmem::find(bytes, pattern) {
        Some(at) => (at + pattern.len(), true),
        None => (bytes.len(), false),
    }
}

fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[taken..], left - taken as u64)
}

/// A LF without its CR, or a CR without its LF; the last byte may still get its other half.
fn has_bare_line_end(bytes: &[u8]) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', bytes).any(|at| match bytes[at] {
        b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
        _ => at == 0 || bytes[at - 1] != b'\r',
    })
}

/// The lines of a head or a trailer section, without their ends.
fn lines(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    let section = section.strip_suffix(b"\r\n").unwrap_or(section);
    // An empty section has no line, and not one empty line.
    section
        .split(|byte| *byte == b'\n')
        .filter(|_| !section.is_empty())
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// What follows a head: a body's length, or chunks. Its own lines end each in CRLF.
fn framing(head: &[u8]) -> Result<Framing, &'static str> {
    let mut lines = lines(head);
    let is_http10 = request_line(lines.next().unwrap_or_default())?;
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = header(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(digits(value).ok_or("a Content-Length that is no number")?).is_some() {
                return Err("more than one Content-Length");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("a transfer coding other than chunked, once");
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err("a Content-Length beside a Transfer-Encoding"),
        (None, true) if is_http10 => Err("a Transfer-Encoding in HTTP/1.0"),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// `method SP target SP version`, one space each. Gives whether the version is 1.0.
fn request_line(line: &[u8]) -> Result<bool, &'static str> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a request line that is not three words");
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err("a method that is no token");
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("a target with bytes that are not visible ASCII");
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err("a version other than HTTP/1.1 and HTTP/1.0"),
    }
}

/// `name: value`, the value without the blanks around it.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let colon = memchr::memchr(b':', line).ok_or("a header without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A blank before the colon, and a line that goes on the one before, are no tokens either.
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err("a header name that is no token");
    }
    if value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        return Err("a control character in a header");
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    Ok((name, &value[start..end]))
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn digits(value: &[u8]) -> Option<u64> {
    let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| plain)?.parse().ok()
}

/// `size [; extension]`: hexadecimal digits with nothing before or behind them.
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let (size, extension) = match memchr::memchr(b';', line) {
        Some(at) => (&line[..at], &line[at..]),
        None => (line, &[][..]),
    };
    if extension.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        return Err("a control character in a chunk extension");
    }
    let plain = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
    let size = std::str::from_utf8(size).ok().filter(|_| plain).ok_or("a chunk size that is no number")?;
    u64::from_str_radix(size, 16).map_err(|_| "a chunk size that is no number")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(reason) | Self::Body(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn follow(bytes: &[u8]) -> Result<State, Fault> {
        let mut wire = Wire::new(16 << 10);
        wire.follow(bytes).map(|()| wire.state)
    }

    fn head(lines: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    }

    #[test]
    fn honest_requests_are_followed_from_head_to_head() {
        for (bytes, state) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", State::Head),
            ("\r\nGET / HTTP/1.0\r\n\r\nGET /x?y HTTP/1.1\r\nHost: a\r\n\r\n", State::Head),
            (&head("Content-Length: 3\r\n"), State::Body(3)),
            (&(head("content-length:\t3 \r\n") + "abcGET / HTTP/1.1\r\nA: \u{e9}\r\n\r\n"), State::Head),
            (&(head("Transfer-Encoding: Chunked\r\n") + "3\r\nabc\r\n"), State::ChunkLine),
            (&(head("Transfer-Encoding: chunked\r\n") + "A;x=y\r\n0123456789\r\n0\r\n\r\n"), State::Head),
            (&(head("Transfer-Encoding: chunked\r\n") + "0\r\nX: y\r\n\r\nG"), State::Head),
        ] {
            assert_eq!(follow(bytes.as_bytes()), Ok(state), "{bytes:?}");
        }
    }

    #[test]
    fn s1_s2_s3_s6_framing_that_two_parsers_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\ncontent-length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 3_0\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length:\r\n",
            "Content-Length: \u{a0}3\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Transfer-Encoding: chunked;a=b\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            assert!(matches!(follow(head(lines).as_bytes()), Err(Fault::Head(_))), "{lines:?}");
        }
        let http10 = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(follow(http10.as_bytes()), Err(Fault::Head(_))));
    }

    #[test]
    fn s4_s5_malformed_lines_are_refused() {
        for bytes in [
            head("X : y\r\n"),
            head("X: y\r\n z\r\n"),
            head(" X: y\r\n"),
            head("X\r\n"),
            head(": y\r\n"),
            head("X: a\0b\r\n"),
            head("X: a\rb\r\n"),
            head("X: y\n"),
            "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
            "GET  / HTTP/1.1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1 \r\n\r\n".to_owned(),
            "GET /\r\n\r\n".to_owned(),
            "GET / HTTP/2.0\r\n\r\n".to_owned(),
            "G@T / HTTP/1.1\r\n\r\n".to_owned(),
            "GET /\u{e9} HTTP/1.1\r\n\r\n".to_owned(),
        ] {
            assert!(matches!(follow(bytes.as_bytes()), Err(Fault::Head(_))), "{bytes:?}");
        }
    }

    #[test]
    fn s7_malformed_chunks_are_refused() {
        let long = format!("3;{}\r\n", "x".repeat(100 << 10));
        for body in [
            "0x3\r\nabc\r\n",
            "+3\r\nabc\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "10000000000000003\r\nabc\r\n",
            "3;a\nb\r\nabc\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc0\r\n\r\n",
            "\r\n",
            ";\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            &long,
        ] {
            let bytes = head("Transfer-Encoding: chunked\r\n") + body;
            assert!(matches!(follow(bytes.as_bytes()), Err(Fault::Body(_))), "{:.60?}", body);
        }
    }

    /// The rough material of requests, so that random bytes are often nearly right.
    fn material() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("GET / HTTP/1.1\r\n"),
            Just("Host: a\r\n"),
            Just("Content-Length: 3\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("\r\n"),
            Just("abc"),
            Just("3\r\nabc\r\n"),
            Just("0\r\n\r\n"),
            Just("X: y\r\n"),
            Just("\r"),
            Just("\n"),
            Just("\0"),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_bytes_are_cut(bytes in material(), cuts in prop::collection::vec(1_usize..9, 0..40)) {
            let mut pieces = Wire::new(16 << 10);
            let mut rest = &bytes[..];
            let mut outcome = Ok(());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                outcome = outcome.and_then(|()| pieces.follow(piece));
                rest = after;
            }
            outcome = outcome.and_then(|()| pieces.follow(rest));
            let mut whole = Wire::new(16 << 10);
            let expected = whole.follow(&bytes);
            prop_assert_eq!(outcome.is_ok(), expected.is_ok());
            if expected.is_ok() {
                prop_assert_eq!(pieces.state, whole.state);
                prop_assert_eq!(pieces.partial, whole.partial);
            }
        }
    }
}
