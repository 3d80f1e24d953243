//! The form itself: bytes in as they come, canonical bytes out.

use std::{fmt, mem};

use bytes::{Buf, BytesMut};
use http::HeaderValue;
use memchr::{memchr, memmem};

use super::{
    FormError,
    part::{Charset, Head, Part},
};

const CRLF: &[u8] = b"\r\n";

/// What Werkzeug takes by default (`max_form_parts`).
const MAX_PARTS: usize = 1000;

/// Honest heads have 50 to 300 bytes.
const MAX_HEAD: usize = 8 * 1024;

/// A form on its way through; pure, and with constant memory: it holds a part's head, or as many bytes of a
/// value as could be the beginning of a delimiter.
pub(crate) struct Filter {
    /// Finds `--` and the client's boundary.
    boundary: memmem::Finder<'static>,
    /// The boundary of what we write. SECURITY: random, so that no value can contain it.
    own_boundary: String,
    /// What came and was not understood yet.
    held: BytesMut,
    state: State,
    parts: usize,
    /// The part's head that is being read, and how many bytes it has taken.
    head: Head,
    head_len: usize,
}

#[derive(Clone, Copy)]
enum State {
    /// Before the first delimiter.
    Start,
    /// Behind a boundary: another part, or the end.
    Delimiter,
    /// In a part's head.
    Head,
    /// In the value of a field.
    Value,
    /// In the value of an empty file input, where no byte may come.
    NoValue,
    /// Behind the last delimiter.
    End,
    Failed(FormError),
}

/// Whether there is more to be read in what is held.
#[derive(Eq, PartialEq)]
enum Step {
    Done,
    NeedsMore,
}

impl Filter {
    /// A filter for a body with this boundary, which must not be empty.
    pub(super) fn new(boundary: &[u8]) -> Self {
        Self {
            boundary: memmem::Finder::new(&[b"--", boundary].concat()).into_owned(),
            own_boundary: random_boundary(),
            held: BytesMut::new(),
            state: State::Start,
            parts: 0,
            head: Head::default(),
            head_len: 0,
        }
    }

    /// The Content-Type of what comes out. It replaces the client's; a Content-Length of the client's body
    /// must go.
    pub(crate) fn content_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!("multipart/form-data; boundary={}", self.own_boundary))
            // The boundary is made of hexadecimal digits.
            .expect("a header value of visible ASCII")
    }

    /// Takes the next bytes of the body and appends to `out` what can be forwarded.
    ///
    /// # Errors
    /// The first fault is final: every later call gives it again.
    pub(crate) fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), FormError> {
        self.held.extend_from_slice(chunk);
        loop {
            match self.step(out) {
                Ok(Step::Done) => {}
                Ok(Step::NeedsMore) => return Ok(()),
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// Ends the body. Only here the last delimiter is written: a form with a fault at its very end never
    /// reaches the backend as a whole.
    pub(crate) fn finish(&mut self, out: &mut BytesMut) -> Result<(), FormError> {
        match self.state {
            State::End if self.held.is_empty() || *self.held == *CRLF => {
                append(out, &[b"--", self.own_boundary.as_bytes(), b"--\r\n"]);
                Ok(())
            }
            State::End => Err(self.fail(FormError::Epilogue)),
            State::Failed(error) => Err(error),
            State::Start | State::Delimiter | State::Head | State::Value | State::NoValue => {
                Err(self.fail(FormError::Truncated))
            }
        }
    }

    fn fail(&mut self, error: FormError) -> FormError {
        self.held = BytesMut::new();
        self.state = State::Failed(error);
        error
    }

    fn step(&mut self, out: &mut BytesMut) -> Result<Step, FormError> {
        match self.state {
            State::Start => self.start(),
            State::Delimiter => self.delimiter(),
            State::Head => self.head(out),
            State::Value | State::NoValue => self.value(out),
            State::End if CRLF.starts_with(&self.held) => Ok(Step::NeedsMore),
            State::End => Err(FormError::Epilogue),
            State::Failed(error) => Err(error),
        }
    }

    /// The first boundary, with nothing before it but perhaps the line end that belongs to every other one.
    fn start(&mut self) -> Result<Step, FormError> {
        let boundary = self.boundary.needle();
        let rest = self.held.strip_prefix(CRLF).unwrap_or(&self.held);
        if rest.starts_with(boundary) {
            self.held.advance(self.held.len() - rest.len() + boundary.len());
            self.state = State::Delimiter;
            Ok(Step::Done)
        } else if boundary.starts_with(rest) || CRLF.starts_with(&self.held) {
            Ok(Step::NeedsMore)
        } else {
            Err(FormError::Preamble)
        }
    }

    /// RFC 2046 allows blanks behind a boundary; nobody sends them, and parsers differ about them.
    fn delimiter(&mut self) -> Result<Step, FormError> {
        let Some((mark, _)) = self.held.split_at_checked(2) else {
            return Ok(Step::NeedsMore);
        };
        self.state = match mark {
            b"--" => State::End,
            CRLF if self.parts == MAX_PARTS => return Err(FormError::TooManyParts),
            CRLF => {
                self.parts += 1;
                self.head_len = 0;
                State::Head
            }
            _ => return Err(FormError::Delimiter),
        };
        self.held.advance(2);
        Ok(Step::Done)
    }

    /// One line of a part's head.
    fn head(&mut self, out: &mut BytesMut) -> Result<Step, FormError> {
        let line_feed = memchr(b'\n', &self.held);
        if self.head_len + line_feed.unwrap_or(self.held.len()) >= MAX_HEAD {
            return Err(FormError::HeadTooBig);
        }
        let Some(line_feed) = line_feed else {
            return Ok(Step::NeedsMore);
        };
        self.head_len += line_feed + 1;
        let line = self.held.split_to(line_feed + 1);
        let line = line.strip_suffix(CRLF).ok_or(FormError::LineEnd)?;
        if line.contains(&b'\r') {
            return Err(FormError::LineEnd);
        }
        if !line.is_empty() {
            self.head.line(line)?;
            return Ok(Step::Done);
        }
        self.state = match mem::take(&mut self.head).end()? {
            Part::Field { name, charset } => {
                self.write_head(out, &name, charset);
                State::Value
            }
            Part::EmptyFile => State::NoValue,
        };
        Ok(Step::Done)
    }

    /// As much of a value as is certain to be none of a delimiter, or all of it.
    fn value(&mut self, out: &mut BytesMut) -> Result<Step, FormError> {
        let boundary_len = self.boundary.needle().len();
        let is_field = matches!(self.state, State::Value);
        let (value_len, step) = match self.boundary.find(&self.held) {
            Some(at) if self.held[..at].ends_with(CRLF) => (at - CRLF.len(), Step::Done),
            // SECURITY: a boundary behind anything but CRLF is a delimiter for lenient parsers (Werkzeug takes a
            // lone CR or LF), and must not be in a part for RFC 2046 either.
            Some(_) if is_field => return Err(FormError::StrayBoundary),
            Some(_) => return Err(FormError::File),
            None => {
                let kept = CRLF.len() + boundary_len - 1;
                (self.held.len().saturating_sub(kept), Step::NeedsMore)
            }
        };
        if !is_field && value_len > 0 {
            return Err(FormError::File);
        }
        out.extend_from_slice(&self.held[..value_len]);
        self.held.advance(value_len);
        if step == Step::Done {
            if is_field {
                out.extend_from_slice(CRLF);
            }
            self.held.advance(CRLF.len() + boundary_len);
            self.state = State::Delimiter;
        }
        Ok(step)
    }

    fn write_head(&self, out: &mut BytesMut, name: &str, charset: Charset) {
        append(
            out,
            &[
                b"--",
                self.own_boundary.as_bytes(),
                b"\r\nContent-Disposition: form-data; name=\"",
                name.as_bytes(),
                b"\"\r\n",
            ],
        );
        if let Some(label) = charset.label() {
            append(out, &[b"Content-Type: text/plain; charset=", label.as_bytes(), CRLF]);
        }
        out.extend_from_slice(CRLF);
    }
}

fn append(out: &mut BytesMut, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// 128 random bits in hexadecimal digits.
fn random_boundary() -> String {
    let mut bits = [0; 16];
    // AWS-LC's generator aborts the process where there is no entropy; it never returns an error.
    aws_lc_rs::rand::fill(&mut bits).expect("random bytes");
    format!("{:032x}", u128::from_ne_bytes(bits))
}

impl fmt::Debug for Filter {
    /// Shows no byte of the form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("held", &self.held.len())
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes out, with our boundary replaced by `N`.
    fn run<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, FormError> {
        let mut filter = Filter::new(b"B");
        filter.own_boundary = "N".to_owned();
        let mut out = BytesMut::new();
        for chunk in chunks {
            filter.push(chunk, &mut out)?;
        }
        filter.finish(&mut out)?;
        Ok(out.to_vec())
    }

    fn text(body: &str) -> Result<String, FormError> {
        run([body.as_bytes()]).map(|out| String::from_utf8(out).unwrap())
    }

    const HEAD: &str = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n";

    #[test]
    fn fields_are_written_anew_in_their_order() {
        let body = "--B\r\ncontent-disposition:form-data;name=b\r\n\r\n1\r\n\
            --B\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n\
            --B\r\nContent-Disposition: form-data; name=\"c\"\r\nContent-Type: text/x; charset=ascii\r\n\r\n\
            x\r\n\ny\r\n--B--\r\n";
        let expected = "--N\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n1\r\n\
            --N\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n\
            --N\r\nContent-Disposition: form-data; name=\"c\"\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
            x\r\n\ny\r\n--N--\r\n";
        assert_eq!(text(body).as_deref(), Ok(expected));
    }

    #[test]
    fn an_empty_form_stays_an_empty_form() {
        for body in ["--B--", "--B--\r\n", "\r\n--B--\r\n"] {
            assert_eq!(text(body).as_deref(), Ok("--N--\r\n"), "{body:?}");
        }
    }

    #[test]
    fn an_untouched_file_input_is_left_out_and_one_byte_in_it_is_a_file() {
        let head = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n";
        assert_eq!(text(&format!("{head}\r\n--B--\r\n")).as_deref(), Ok("--N--\r\n"));
        assert_eq!(
            text(&format!("{head}\r\n{HEAD}\r\n1\r\n--B--\r\n")).as_deref(),
            Ok("--N\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--N--\r\n")
        );
        for value in ["x", "\r", "\n", "\r\n", " ", &"x".repeat(100)] {
            assert_eq!(text(&format!("{head}{value}\r\n--B--\r\n")), Err(FormError::File), "{value:?}");
        }
    }

    #[test]
    fn a_file_is_refused_before_its_head_has_ended() {
        let mut filter = Filter::new(b"B");
        let mut out = BytesMut::new();
        let begin = b"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n";
        assert_eq!(filter.push(begin, &mut out), Err(FormError::File));
        assert!(out.is_empty());
    }

    #[test]
    fn the_first_fault_is_final() {
        let mut filter = Filter::new(b"B");
        let mut out = BytesMut::new();
        assert_eq!(filter.push(b"x", &mut out), Err(FormError::Preamble));
        assert_eq!(filter.push(b"--B--", &mut out), Err(FormError::Preamble));
        assert_eq!(filter.finish(&mut out), Err(FormError::Preamble));
        assert!(out.is_empty());
    }

    #[test]
    fn m1_loose_delimiters_are_refused() {
        for (body, fault) in [
            ("", FormError::Truncated),
            ("--B", FormError::Truncated),
            ("--B-", FormError::Truncated),
            ("--B\r\n", FormError::Truncated),
            ("x\r\n--B--", FormError::Preamble),
            ("\n--B--", FormError::Preamble),
            ("\r\n\r\n--B--", FormError::Preamble),
            ("--b--", FormError::Preamble),
            ("--B --", FormError::Delimiter),
            ("--B\n\n", FormError::Delimiter),
            ("--B \r\n", FormError::Delimiter),
            ("--B\t\r\n", FormError::Delimiter),
            ("--BB--", FormError::Delimiter),
            ("--B--x", FormError::Epilogue),
            ("--B-- \r\n", FormError::Epilogue),
            ("--B--\n", FormError::Epilogue),
            ("--B--\r", FormError::Epilogue),
            ("--B--\r\n\r\n", FormError::Epilogue),
            ("--B--\r\n--B\r\n", FormError::Epilogue),
        ] {
            assert_eq!(text(body), Err(fault), "{body:?}");
        }
        for (rest, fault) in [
            ("\r\nv", FormError::Truncated),
            ("\r\nv\r\n--B", FormError::Truncated),
            ("\r\nv\n--B--", FormError::StrayBoundary),
            ("\r\nv\r--B--", FormError::StrayBoundary),
            ("\r\nv--B--", FormError::StrayBoundary),
            ("\r\n--B--", FormError::StrayBoundary),
            ("\r\nv\r\n --B\r\n--B--", FormError::StrayBoundary),
            ("\r\nv\r\n--Bx\r\n--B--", FormError::Delimiter),
            ("\r\nv\r\n--B \r\n\r\n", FormError::Delimiter),
            ("\nv\r\n--B--", FormError::LineEnd),
            ("X: \r\r\n\r\nv\r\n--B--", FormError::LineEnd),
        ] {
            assert_eq!(text(&format!("{HEAD}{rest}")), Err(fault), "{rest:?}");
        }
        assert_eq!(text(&format!("{}\nv\n--B--", HEAD.replace('\r', ""))), Err(FormError::Delimiter));
    }

    #[test]
    fn m1_a_large_head_is_refused_as_soon_as_it_is_too_large() {
        let padding = |len: usize| format!("{HEAD}Content-Type: a/{}", "b".repeat(len));
        let limit = MAX_HEAD - (HEAD.len() - "--B\r\n".len()) - "Content-Type: a/\r\n".len();
        let body = |len: usize| format!("{}\r\n\r\nv\r\n--B--", padding(len));
        assert!(text(&body(limit - 2)).is_ok());
        assert_eq!(text(&body(limit + 1)), Err(FormError::HeadTooBig));
        assert_eq!(text(&padding(70_000)), Err(FormError::HeadTooBig));
    }

    #[test]
    fn a_form_has_a_thousand_parts_at_the_most() {
        let body = |parts: usize| format!("{}--B--", format!("{HEAD}\r\n\r\n").repeat(parts));
        assert!(text(&body(1000)).is_ok());
        assert_eq!(text(&body(1001)), Err(FormError::TooManyParts));
    }

    #[test]
    fn a_value_is_passed_on_while_it_comes() {
        let mut filter = Filter::new(b"B");
        let mut out = BytesMut::new();
        filter.push(format!("{HEAD}\r\n").as_bytes(), &mut out).unwrap();
        let chunk = [b'-'; 4096];
        for _ in 0..1024 {
            out.clear();
            // Dashes are the hardest: each could be a delimiter's first.
            filter.push(&chunk, &mut out).unwrap();
            assert!(filter.held.len() < b"\r\n--B".len());
            assert!(filter.held.capacity() <= 4 * chunk.len());
        }
    }

    #[test]
    fn boundaries_are_random_and_debug_shows_no_byte() {
        let mut filters = [Filter::new(b"secret"), Filter::new(b"secret")];
        assert_ne!(filters[0].content_type(), filters[1].content_type());
        filters[0].push(b"--sec", &mut BytesMut::new()).unwrap();
        assert!(!format!("{:?}", filters[0]).contains("sec"));
    }

    /// Bytes out of which delimiters are made, and others.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "--B\r\n", "--B--", "--B", "\r\n", "\r", "\n", "-", "B", "--", HEAD, "\r\n\r\n", "\r\n--B",
                "Content-Disposition: form-data; name=", "\"", "a", "; filename=", "\"\"", "Content-Type: a/b",
            ]).prop_map(|text: &str| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ]
    }

    fn cut<'a>(body: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        at.extend([0, body.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn values_come_out_byte_for_byte(
            value in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n-A".to_vec())], 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            prop_assume!(memmem::find(&value, b"--B").is_none());
            let body = [HEAD.as_bytes(), CRLF, &value, b"\r\n--B--\r\n"].concat();
            let expected = [HEAD.replace('B', "N").as_bytes(), CRLF, &value, b"\r\n--N--\r\n"].concat();
            prop_assert_eq!(run(cut(&body, &cuts)), Ok(expected));
        }

        #[test]
        fn the_result_does_not_depend_on_how_the_bytes_were_cut_and_nothing_panics(
            pieces in prop::collection::vec(piece(), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let body = pieces.concat();
            let whole = run([&body[..]]);
            prop_assert_eq!(run(cut(&body, &cuts)), whole.clone());
            prop_assert_eq!(run(body.chunks(1)), whole);
        }

        #[test]
        fn no_form_is_read_differently_for_being_cut(
            values in prop::collection::vec(piece(), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut body = Vec::new();
            for value in &values {
                body.extend([HEAD.as_bytes(), CRLF, value, CRLF].concat());
            }
            body.extend(b"--B--\r\n");
            prop_assert_eq!(run(cut(&body, &cuts)), run([&body[..]]));
        }
    }
}
