//! A request's head: its lines, and what they say about where the request ends.

use http::Uri;

use super::{Bounds, Fault};

/// The longest method that is looked at: there is none of this length.
const METHOD: usize = 32;
/// What a request line has besides its target, at the most.
const BESIDES_TARGET: usize = METHOD + "  HTTP/1.1\r\n".len();

/// A head that is whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// In bytes, with the empty line that ends it.
    pub(super) length: usize,
    pub(super) framing: Framing,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// How many of `bytes` are empty lines before a head.
pub(super) fn empty_lines(bytes: &[u8]) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [b'\n', ..] | [b'\r', _, ..] => return Err(NOT_CRLF),
            _ => return Ok(at),
        }
    }
}

const NOT_CRLF: Fault = Fault::Malformed("a line end that is not CRLF");

/// The head that `bytes` begin with; `None`: it is not whole yet. What is wrong with its first lines is told before
/// the last ones have come.
pub(super) fn read(bytes: &[u8], bounds: Bounds) -> Result<Option<Head>, Fault> {
    let mut request: Option<Request> = None;
    let mut headers = 0;
    let mut start = 0;
    while let Some(line) = line(&bytes[start..])? {
        start += line.len() + 2;
        match &mut request {
            None => request = Some(request_line(line, bounds.target)?),
            Some(_) if start > bounds.head => return Err(Fault::Size),
            Some(request) if line.is_empty() => {
                return request.framing().map(|framing| Some(Head { length: start, framing }));
            }
            Some(request) => {
                headers += 1;
                if headers > bounds.headers {
                    return Err(Fault::Headers);
                }
                request.header(line)?;
            }
        }
    }
    if request.is_none() && bytes.len() > bounds.target + BESIDES_TARGET {
        return Err(Fault::Target);
    }
    if bytes.len() > bounds.head {
        return Err(Fault::Size);
    }
    Ok(None)
}

/// The first of the lines that `bytes` have whole, without its end.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let (line, is_whole) = match memchr::memchr(b'\n', bytes) {
        Some(at) => (bytes[..at].strip_suffix(b"\r").ok_or(NOT_CRLF)?, true),
        // The LF of this CR may be to come.
        None => (bytes.strip_suffix(b"\r").unwrap_or(bytes), false),
    };
    // In a whole line control characters are looked for anyway.
    if !is_whole && memchr::memchr(b'\r', line).is_some() {
        return Err(NOT_CRLF);
    }
    Ok(is_whole.then_some(line))
}

/// What a request line and the headers so far say.
struct Request {
    is_http10: bool,
    length: Option<u64>,
    chunked: bool,
}

/// `method SP target SP version`, one space each.
fn request_line(line: &[u8], longest_target: usize) -> Result<Request, Fault> {
    const WORDS: Fault = Fault::Malformed("a request line that is not three words");
    let first = memchr::memchr(b' ', line).ok_or(WORDS)?;
    let last = memchr::memrchr(b' ', line).filter(|last| *last > first).ok_or(WORDS)?;
    let (method, target, version) = (&line[..first], &line[first + 1..last], &line[last + 1..]);
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(Fault::Malformed("a method that is no token"));
    }
    let is_http10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Fault::Version),
        _ => return Err(Fault::Malformed("a version that is none")),
    };
    // What CONNECT names is no path, and nothing here is a tunnel to it.
    if method == b"CONNECT" || method.len() > METHOD {
        return Err(Fault::Method);
    }
    if target.len() > longest_target {
        return Err(Fault::Target);
    }
    if !is_target(method, target) {
        return Err(Fault::Malformed("a target that is neither a path nor an absolute URL"));
    }
    Ok(Request { is_http10, length: None, chunked: false })
}

/// A path with its query, an absolute URL, or the `*` of OPTIONS (RFC 9112 3.2).
fn is_target(method: &[u8], target: &[u8]) -> bool {
    match target {
        b"*" => method == b"OPTIONS",
        [b'/', ..] if target.iter().all(|byte| CLASSES[usize::from(*byte)] & IN_PATHS != 0) => true,
        // hyper drops a fragment without a word.
        _ if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') => false,
        [b'/', ..] => Uri::try_from(target).is_ok(),
        _ => Uri::try_from(target).is_ok_and(|uri| uri.scheme().is_some()),
    }
}

impl Request {
    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = header(line).map_err(Fault::Malformed)?;
        if name.len() == "content-length".len() && name.eq_ignore_ascii_case(b"content-length") {
            let length = digits(value).ok_or(Fault::Malformed("a Content-Length that is no number"))?;
            if self.length.replace(length).is_some() {
                return Err(Fault::Malformed("more than one Content-Length"));
            }
        } else if name.len() == "transfer-encoding".len() && name.eq_ignore_ascii_case(b"transfer-encoding") {
            if std::mem::replace(&mut self.chunked, true) {
                return Err(Fault::Malformed("more than one Transfer-Encoding"));
            }
            chunked(value)?;
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Fault> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::Malformed("a Content-Length beside a Transfer-Encoding")),
            (None, true) if self.is_http10 => Err(Fault::Malformed("a Transfer-Encoding in HTTP/1.0")),
            (None, true) => Ok(Framing::Chunked),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// The coding is chunked, and nothing else. RFC 9112 6.1: 501 for others that are done before it; 6.3: without it
/// at the end nobody knows where the body ends.
fn chunked(codings: &[u8]) -> Result<(), Fault> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if is_chunked(codings) {
        return Ok(());
    }
    let mut codings = codings.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let ends_well = codings.next().is_some_and(is_chunked);
    let is_other =
        |coding: &[u8]| !coding.is_empty() && !is_chunked(coding) && coding.iter().copied().all(is_token);
    if ends_well && codings.all(is_other) {
        return Err(Fault::Coding);
    }
    Err(Fault::Malformed("a Transfer-Encoding that is not chunked, once and at the end"))
}

/// `name: value`, the value without the blanks around it.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let colon = memchr::memchr(b':', line).ok_or("a header without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A blank before the colon, and a line that goes on the one before, are no tokens either.
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err("a header name that is no token");
    }
    if value.iter().any(|byte| CLASSES[usize::from(*byte)] & CONTROL != 0) {
        return Err("a control character in a header");
    }
    Ok((name, value.trim_ascii()))
}

/// RFC 9110 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & IN_TOKENS != 0
}

/// A control character other than a tab.
pub(super) fn is_control(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & CONTROL != 0
}

const IN_TOKENS: u8 = 1;
const CONTROL: u8 = 2;
/// RFC 3986 `pchar`, `/` and `?`: what browsers send. hyper is asked about the rest.
const IN_PATHS: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut class = 0;
        let is_alphanumeric = (byte as u8).is_ascii_alphanumeric();
        if is_alphanumeric || among(byte as u8, b"!#$%&'*+-.^_`|~") {
            class |= IN_TOKENS;
        }
        if byte < 32 && byte != b'\t' as usize || byte == 127 {
            class |= CONTROL;
        }
        if is_alphanumeric || among(byte as u8, b"/?%-._~!$&'()*+,;=:@") {
            class |= IN_PATHS;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
};

const fn among(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// A number without a leading zero, which some read as octal.
fn digits(value: &[u8]) -> Option<u64> {
    let plain = value == b"0" || value.first() != Some(&b'0') && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| plain)?.parse().ok()
}
