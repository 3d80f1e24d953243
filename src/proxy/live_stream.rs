//! A stream that the backend feeds.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

use super::{
    event_stream::{Bound, LINGER, Slot, come_back},
    stream::Download,
};
use crate::{
    drain::{Drain, Ending},
    error::BodyError,
};

/// A backend's stream. When the backend breaks it, or the relay ends, it ends well, and the browser is told when to
/// come back.
pub(super) struct Live {
    /// `None` once it has ended.
    inner: Option<Download>,
    tail: Tail,
    ending: Ending,
    slot: Option<Slot>,
}

impl Live {
    /// `slot`: its share of the budget, where it was asked for as a stream.
    pub(super) fn new(inner: Download, slot: Option<Slot>, drain: &Drain) -> Self {
        Self { inner: Some(inner), tail: Tail::default(), ending: drain.ending(), slot }
    }
}

impl Live {
    /// Whether the relay ends it, and nothing of an event has been said.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.ending).poll(cx).is_ready() && self.tail.is_between_events()
    }

    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.inner = None;
        Poll::Ready(Some(Ok(Frame::data(come_back()))))
    }
}

impl http_body::Body for Live {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else {
            return if self.is_over(cx) { self.end() } else { Poll::Pending };
        };
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.tail.push(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.inner = None;
                Poll::Ready(None)
            }
            // It did not break: a rule's `max_size` cut it, and the client is to see that.
            Some(Err(error @ BodyError::DownloadTooBig)) => Poll::Ready(Some(Err(error))),
            Some(Err(_)) => {
                self.inner = None;
                // In the middle of an event nothing can be said: it would become part of the event. The browser
                // drops what is not whole, and comes back when the last `retry:` says.
                let last = self.tail.is_between_events().then(|| Ok(Frame::data(come_back())));
                Poll::Ready(last)
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let (Some(inner), Some(slot)) = (self.inner.take(), self.slot.take()) else { return };
        inner.abandon();
        if slot.bounded_by == Bound::Origin {
            let place = slot.place;
            tokio::spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop(place);
            });
        }
    }
}

/// The last bytes of a stream: enough to tell whether an event has ended.
#[derive(Default)]
struct Tail {
    bytes: [u8; 4],
    length: usize,
}

impl Tail {
    fn push(&mut self, data: &[u8]) {
        for byte in &data[data.len().saturating_sub(4)..] {
            self.bytes.rotate_left(1);
            self.bytes[3] = *byte;
        }
        self.length = self.length.saturating_add(data.len());
    }

    /// Whether nothing came yet, or the last thing was a blank line, in any of the three line ends.
    fn is_between_events(&self) -> bool {
        self.length == 0
            || self.bytes.ends_with(b"\n\n")
            || self.bytes.ends_with(b"\r\r")
            || self.bytes == *b"\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_event_is_a_blank_line_however_it_is_cut() {
        for (pieces, expected) in [
            (&[][..], true),
            (&["data: 1\n\n"], true),
            (&["data: 1\n", "\n"], true),
            (&["data: 1\r\n\r", "\n"], true),
            (&["data: 1\r\r"], true),
            (&["data: 1\n"], false),
            (&["data: 1\r\n"], false),
            (&["data: 1\n\nda"], false),
            (&["\n", "\n", "d"], false),
        ] {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
            assert_eq!(tail.is_between_events(), expected, "{pieces:?}");
        }
    }
}
