//! The bytes of HTTP/1 requests, read strictly before hyper reads them.
//!
//! Where two parsers find the end of a request in two places, a second request can hide in the first. hyper takes
//! bare LF for a line end, equal lengths twice, and a length beside a coding (it drops the length); this does
//! not. It finds the same boundaries as hyper, and refuses what another parser could find others in (RFC 9112
//! 2.2, 6.3, 7.1; attacks.md S1 to S7).

mod chunks;
mod fault;
mod head;

use self::chunks::Chunks;
pub(crate) use self::fault::{BodyFault, Fault};

/// How large what comes may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of a head, in bytes.
    pub(crate) head: usize,
    /// Of a request target, in bytes.
    pub(crate) target: usize,
    /// Of a head, in headers.
    pub(crate) headers: usize,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Wire {
    bounds: Bounds,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Between two requests, or in a head.
    Head,
    /// In a body of which this many bytes are to come.
    Body(u64),
    Chunked(Chunks),
}

/// What has come of a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Came {
    /// Empty lines before it, which are to be ignored (RFC 9112 2.2): this many bytes.
    Nothing(usize),
    Part,
    /// All of it, in this many bytes.
    Whole(usize),
}

impl Wire {
    /// Of a connection that begins now.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: State::Head }
    }

    /// Whether nothing of a body is to come before the next head.
    pub(super) fn is_at_a_head(&self) -> bool {
        self.state == State::Head
    }

    /// Reads the head that `bytes` begin with, if it is whole; what follows it is read by [`Self::body`].
    pub(super) fn head(&mut self, bytes: &[u8]) -> Result<Came, Fault> {
        let empty = head::empty_lines(bytes)?;
        if empty > 0 || bytes == b"\r" {
            return Ok(Came::Nothing(empty));
        }
        let Some(head) = head::read(bytes, self.bounds)? else {
            return Ok(Came::Part);
        };
        self.state = match head.framing {
            head::Framing::Length(0) => State::Head,
            head::Framing::Length(length) => State::Body(length),
            head::Framing::Chunked => State::Chunked(Chunks::new()),
        };
        Ok(Came::Whole(head.length))
    }

    /// How many of `bytes` belong to the body that is under way, up to its end or to what is none.
    pub(super) fn body(&mut self, bytes: &[u8]) -> (usize, Result<(), BodyFault>) {
        match &mut self.state {
            State::Head => (0, Ok(())),
            State::Body(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                (taken, Ok(()))
            }
            State::Chunked(chunks) => {
                let (taken, outcome) = chunks.follow(bytes);
                if chunks.have_ended() {
                    self.state = State::Head;
                }
                (taken, outcome)
            }
        }
    }
}

/// Where the heads of a connection lie, for bytes that come `cut` at a time; and whether it came to its end.
#[cfg(any(test, fuzzing))]
pub(crate) fn heads(bytes: &[u8], cut: usize) -> (Vec<std::ops::Range<usize>>, bool) {
    let mut wire = Wire::new(Bounds { head: 16 << 10, target: 8 << 10, headers: 100 });
    let (mut heads, mut at) = (Vec::new(), 0);
    for end in (0..bytes.len()).step_by(cut).map(|start| (start + cut).min(bytes.len())) {
        while at < end {
            if wire.is_at_a_head() {
                match wire.head(&bytes[at..end]) {
                    Err(_) => return (heads, false),
                    Ok(Came::Whole(length)) => {
                        heads.push(at..at + length);
                        at += length;
                    }
                    Ok(Came::Nothing(length @ 1..)) => at += length,
                    Ok(Came::Nothing(0) | Came::Part) => break,
                }
            }
            let (taken, outcome) = wire.body(&bytes[at..end]);
            at += taken;
            if outcome.is_err() {
                return (heads, false);
            }
        }
    }
    (heads, true)
}

#[cfg(test)]
pub(super) mod tests;
