//! Room for what a client's HTTP/2 responses have brought and it has not taken yet.
//!
//! Each of its streams may hold a piece of a body in hyper, which waits for the client's window, and more in h2,
//! which waits for the connection: 128 KiB a stream, 8 MiB with all streams of a connection, gigabytes with all
//! connections of a client that takes nothing (measured: 10 MB a connection, and less than 3 with this; attacks.md A1).
//! HTTP/1.1 has one response at a time and needs none of this.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use crate::{admission::Place, framing::is_event_stream};

/// How much a connection may hold: all of it where its client has few, and the less the more it has. All the connections
/// that one may have would hold more than a small machine has (tests/it/h2_floods.rs measures it). What is left is
/// enough for a browser, many of which may come from one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    /// How many connections the client has, with this one.
    of: usize,
}

/// So many connections of a client get the whole of it. Browsers open one each.
const FEW: usize = 16;

impl Portion {
    pub(super) const WHOLE: Self = Self { of: 1 };

    pub(super) fn of(place: &Place) -> Self {
        Self { of: place.ordinal }
    }

    /// Streams at once, of which each costs some 15 KB: fewer than there are connections to a backend, so that one
    /// client cannot take them all.
    pub(super) fn streams(self) -> u32 {
        self.share(64, 24)
    }

    /// Of requests, in bytes.
    pub(super) fn uploads(self) -> u32 {
        self.share(1 << 20, 128 << 10)
    }

    /// Of one request, in bytes. h2 lets half of the connection's window be overhead of small frames, which uploads in
    /// frames of 100 bytes meet with more than this (tests/it/h2_honest.rs).
    pub(super) fn upload(self) -> u32 {
        self.uploads() / 4
    }

    /// Of responses, in KiB. A client may leave two streams unread, at the least, before the others wait for it; it
    /// has `idle_body` to read on, or they end.
    fn downloads(self) -> u32 {
        self.share(8 * PIECE, 3 * PIECE)
    }

    fn share(self, whole: u32, least: u32) -> u32 {
        let share = u64::from(whole) * FEW as u64 / self.of as u64;
        u32::try_from(share).unwrap_or(whole).clamp(least, whole)
    }
}

/// The largest piece that a body comes in, in KiB: what is read of a file, or of the backend, at once.
const PIECE: u32 = 64;
/// Bodies of up to so many bytes go uncounted: all streams together hold little of them, and they are the most.
const SMALL: u64 = 4 << 10;

/// The room of one connection.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new(portion: Portion) -> Self {
        Self(Arc::new(Semaphore::new(portion.downloads() as usize)))
    }

    /// A response whose body is only asked for more when there is room for it.
    ///
    /// An event stream does not wait for downloads that its client leaves unread: a chat would stand still. What all
    /// event streams hold is bounded by the connections to the backend.
    pub(super) fn response<B: Body>(&self, response: Response<B>) -> Response<InRoom<B>> {
        let is_live = is_event_stream(response.headers());
        response.map(|body| self.body(body, is_live))
    }

    fn body<B: Body>(&self, body: B, is_live: bool) -> InRoom<B> {
        let is_small = body.size_hint().upper().is_some_and(|most| most <= SMALL);
        let room = (!is_live && !is_small).then(|| PollSemaphore::new(Arc::clone(&self.0)));
        InRoom { body, room }
    }
}

/// A response's body, whose pieces take room until h2 has written or dropped them.
pub(super) struct InRoom<B> {
    body: B,
    /// `None`: it need not wait.
    room: Option<PollSemaphore>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for InRoom<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let permit = match &mut this.room {
            // `None`: nobody closes it.
            Some(room) => ready!(room.poll_acquire_many(cx, PIECE)),
            None => None,
        };
        // Without a piece the room goes back at once: a body that waits for its source keeps none.
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| held(data, permit)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The same bytes, that give back the room they need when they are dropped, and at once what they do not need.
fn held(data: Bytes, permit: Option<OwnedSemaphorePermit>) -> Bytes {
    struct Piece {
        data: Bytes,
        _room: OwnedSemaphorePermit,
    }
    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.data
        }
    }
    let size = data.len().div_ceil(1 << 10);
    match permit {
        Some(mut all) => match all.split(size.min(PIECE as usize)) {
            Some(room) if !data.is_empty() => Bytes::from_owner(Piece { data, _room: room }),
            Some(_) | None => data,
        },
        None => data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A body of endless pieces of this size; of 0 bytes: one whose source has nothing yet.
    struct Pieces(usize);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0 {
                0 => Poll::Pending,
                size => Poll::Ready(Some(Ok(Frame::data(vec![7; size].into())))),
            }
        }
    }

    /// The next piece of a body, if it comes at once.
    fn next(body: &mut InRoom<Pieces>) -> Option<Bytes> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(frame) => Some(frame.unwrap().unwrap().into_data().unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a1_the_more_connections_a_client_has_the_less_each_may_hold() {
        let of = |of| Portion { of };
        let all = |portion: Portion| {
            (portion.streams(), portion.uploads() >> 10, portion.upload() >> 10, portion.downloads())
        };
        assert_eq!(all(of(1)), (64, 1024, 256, 512));
        assert_eq!(all(of(16)), (64, 1024, 256, 512));
        assert_eq!(all(of(24)), (42, 682, 170, 341));
        assert_eq!(all(of(256)), (24, 128, 32, 192));
        assert_eq!(all(Portion::WHOLE), all(of(1)));
    }

    #[test]
    fn a1_what_is_not_taken_has_a_limit() {
        let room = Room::new(Portion::WHOLE);
        let mut bodies: Vec<_> = (0..64).map(|_| room.body(Pieces(64 << 10), false)).collect();
        let mut held: Vec<_> = bodies.iter_mut().filter_map(next).collect();
        assert_eq!(held.len(), 8);
        assert!(held.iter().all(|piece| *piece == vec![7; 64 << 10]));
        assert!(bodies.iter_mut().all(|body| next(body).is_none()));
        // Taken by the client: room for one more.
        held.pop();
        assert_eq!(bodies.iter_mut().filter_map(next).collect::<Vec<_>>().len(), 1);
    }

    #[test]
    fn a1_bodies_that_are_dropped_give_their_room_back() {
        let room = Room::new(Portion::WHOLE);
        for _ in 0..64 {
            let mut bodies: Vec<_> = (0..64).map(|_| room.body(Pieces(64 << 10), false)).collect();
            assert_eq!(bodies.iter_mut().filter_map(next).collect::<Vec<_>>().len(), 8);
        }
    }

    #[test]
    fn a_body_that_waits_for_its_source_keeps_no_room() {
        let room = Room::new(Portion::WHOLE);
        let mut waiting: Vec<_> = (0..64).map(|_| room.body(Pieces(0), false)).collect();
        assert!(waiting.iter_mut().all(|body| next(body).is_none()));
        assert!(next(&mut room.body(Pieces(64 << 10), false)).is_some());
    }

    #[test]
    fn a_piece_takes_the_room_that_it_needs() {
        let room = Room::new(Portion::WHOLE);
        let mut events = room.body(Pieces(100), false);
        // All but what the largest piece needs, which is asked for before it is known how large this one is.
        let held: Vec<_> = std::iter::from_fn(|| next(&mut events)).take(1000).collect();
        assert_eq!(held.len(), (Portion::WHOLE.downloads() - PIECE) as usize + 1);
        drop(held);
        assert_eq!(next(&mut room.body(Pieces(1 << 20), false)).unwrap().len(), 1 << 20);
    }

    #[test]
    fn an_event_stream_does_not_wait_for_downloads() {
        let room = Room::new(Portion { of: 256 });
        let response = |kind| {
            let response = Response::builder().header("content-type", kind).body(Pieces(64 << 10)).unwrap();
            room.response(response).into_body()
        };
        let mut unread: Vec<_> = (0..5).map(|_| response("image/png")).collect();
        let held: Vec<_> = unread.iter_mut().filter_map(next).collect();
        assert_eq!(held.len(), 3);
        assert!(next(&mut response("text/event-stream; charset=utf-8")).is_some());
    }

    #[test]
    fn small_bodies_are_not_counted() {
        let room = Room::new(Portion::WHOLE);
        let mut small = room.body(http_body_util::Full::new(Bytes::from(vec![7; 4096])), false);
        let mut large = room.body(http_body_util::Full::new(Bytes::from(vec![7; 4097])), false);
        assert!(small.room.is_none() && large.room.is_some());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (body, length) in [(&mut small, 4096), (&mut large, 4097)] {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) else {
                panic!("a frame")
            };
            assert_eq!(frame.data_ref().unwrap().len(), length);
            assert!(body.is_end_stream());
        }
    }
}
