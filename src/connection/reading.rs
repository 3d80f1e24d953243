//! What hyper gets to read of an HTTP/1 connection: whole heads, their bodies, and nothing of a request before the
//! one before it is answered.
//!
//! So hyper never answers by itself: what is no head is replaced by one that the handler refuses. And it always
//! looks at the socket while a request is being answered, and sees the client leave, whatever else that has sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Method;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use super::wait::Wait;
use crate::{
    in_flight::Requests,
    methods::METHODS,
    wire::{BodyFault, Bounds, Came, Fault, Wire},
};

/// How HTTP/1 heads are to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// From the first byte of each to its last.
    pub(crate) within: Duration,
    pub(crate) bounds: Bounds,
}

/// Reads the requests of one connection.
pub(super) struct Reading {
    wire: Wire,
    heads: Heads,
    /// How many heads hyper was given.
    given: usize,
    /// What hyper is not given yet: the beginning of a head, or what a client sends before it has its answer.
    /// Empty, and without memory, most of the time.
    held: Vec<u8>,
    /// How many bytes of `held` are hyper's.
    due: usize,
    /// How many bytes of `held` are known to be no whole head.
    seen: usize,
    /// When the head began that is not whole yet.
    since: Option<Instant>,
    wait: Wait,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Open,
    /// A head was refused: the connection ends with the answer to it.
    Refused,
    /// The body that hyper reads goes on with something else.
    Broken(BodyFault),
}

impl Reading {
    /// Of a connection that begins now.
    pub(super) fn new(heads: Heads) -> Self {
        Self {
            wire: Wire::new(heads.bounds),
            heads,
            given: 0,
            held: Vec::new(),
            due: 0,
            seen: 0,
            since: None,
            wait: Wait::default(),
            stage: Stage::Open,
        }
    }

    /// Reads what hyper may have now.
    pub(super) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        requests: &Requests,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            while self.due == 0 && self.seen < self.held.len() && !self.must_wait(requests) {
                self.take_held(requests);
            }
            if self.due > 0 {
                self.give(buf);
                return Poll::Ready(Ok(()));
            }
            match self.stage {
                // A client that sends more than this before it has its answer is not looked after: what comes next
                // waits in the kernel.
                Stage::Open if self.held.len() > self.heads.bounds.head => {
                    requests.wake_when_answered(cx);
                    return Poll::Pending;
                }
                Stage::Open => {}
                // The answer is on its way.
                Stage::Refused => return Poll::Pending,
                Stage::Broken(fault) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
            }
            match Pin::new(&mut *stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > before => {}
                Poll::Ready(outcome) => return Poll::Ready(outcome),
                Poll::Pending => {
                    if !self.held.is_empty() && self.must_wait(requests) {
                        // hyper does not look again by itself once it was told that there is nothing.
                        requests.wake_when_answered(cx);
                    }
                    ready!(self.poll_late(requests, cx));
                    continue;
                }
            }
            let new = &buf.filled()[before..];
            if !self.held.is_empty() {
                self.held.extend_from_slice(new);
                buf.set_filled(before);
                continue;
            }
            // Most of the time all of it is hyper's, and stays where it is.
            let (skipped, taken) = self.take(new, requests);
            if self.stage == Stage::Open {
                self.held.extend_from_slice(&new[skipped + taken..]);
                // What had to wait was not looked at.
                let is_seen = skipped + taken == 0 && !self.must_wait(requests);
                self.seen = if is_seen { self.held.len() } else { 0 };
            }
            buf.set_filled(before + taken);
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What the client sent of a tunnel before it was one.
    pub(super) fn give_held(&mut self, buf: &mut ReadBuf<'_>) -> Poll<()> {
        self.due = self.held.len();
        if self.due == 0 {
            return Poll::Pending;
        }
        self.give(buf);
        Poll::Ready(())
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let here = self.due.min(buf.remaining());
        buf.put_slice(&self.held[..here]);
        self.due -= here;
        if here == self.held.len() {
            self.held = Vec::new();
        } else {
            self.held.drain(..here);
        }
    }

    /// Looks how much of what is held is hyper's by now.
    fn take_held(&mut self, requests: &Requests) {
        let held = std::mem::take(&mut self.held);
        // A head that drips is not read anew for each of its bytes.
        let is_worth_it = self.seen == 0
            || held.len() > self.heads.bounds.head
            // What follows a CR that was the last to come says what that was.
            || held[self.seen - 1] == b'\r'
            || memchr::memchr2(b'\r', b'\n', &held[self.seen..]).is_some();
        let (skipped, taken) = if is_worth_it { self.take(&held, requests) } else { (0, 0) };
        if self.stage == Stage::Refused {
            return;
        }
        self.held = held;
        self.held.drain(..skipped);
        if let Stage::Broken(_) = self.stage {
            self.held.truncate(taken);
        }
        (self.due, self.seen) = (taken, if skipped + taken > 0 { 0 } else { self.held.len() });
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// How many of the next `bytes` are nothing, and how many after them are hyper's.
    fn take(&mut self, bytes: &[u8], requests: &Requests) -> (usize, usize) {
        if !self.wire.is_at_a_head() {
            return (0, self.body(bytes));
        }
        if self.must_wait(requests) {
            return (0, 0);
        }
        match self.wire.head(bytes) {
            Ok(Came::Whole(length)) => {
                self.given += 1;
                self.since = None;
                self.wait.disarm();
                (0, length + self.body(&bytes[length..]))
            }
            Ok(Came::Part) => {
                self.since.get_or_insert_with(Instant::now);
                (0, 0)
            }
            Ok(Came::Nothing(length)) => (length, 0),
            Err(fault) => {
                self.refuse(fault, bytes, requests);
                (0, 0)
            }
        }
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        let (taken, outcome) = self.wire.body(bytes);
        if let Err(fault) = outcome {
            self.stage = Stage::Broken(fault);
        }
        taken
    }

    /// Whether what comes next is not looked at: the connection ends, or a request that hyper was given has not been
    /// answered to its end.
    fn must_wait(&self, requests: &Requests) -> bool {
        let is_answering = requests.begun() < self.given || requests.any();
        self.stage != Stage::Open || self.wire.is_at_a_head() && is_answering
    }

    /// Ready when the head that is not whole yet has been refused for it.
    fn poll_late(&mut self, requests: &Requests, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.since else { return Poll::Pending };
        ready!(self.wait.poll_until(|| since + self.heads.within, cx));
        let begun = std::mem::take(&mut self.held);
        self.refuse(Fault::Late, &begun, requests);
        Poll::Ready(())
    }

    /// Puts a head in the place of what is none. hyper has no request before it still to read or to answer: the next
    /// one that the handler gets is this, whatever the client sends.
    fn refuse(&mut self, fault: Fault, bytes: &[u8], requests: &Requests) {
        requests.refuse(fault);
        self.stage = Stage::Refused;
        self.since = None;
        let word = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = METHODS.iter().map(Method::as_str).find(|method| method.as_bytes() == word);
        self.held = format!("{} / HTTP/1.1\r\n\r\n", method.unwrap_or("-")).into_bytes();
        (self.due, self.seen) = (self.held.len(), 0);
    }
}

#[cfg(test)]
mod tests;
