//! The frames of an HTTP/2 client, counted before the h2 crate reads them.
//!
//! h2 ends a connection itself for too many CONTINUATION and empty DATA frames, for streams that it had to reset,
//! and for streams that were reset before anybody looked at them. It answers SETTINGS and PING for as long as they
//! come, and drops PRIORITY, WINDOW_UPDATE and unknown frames one by one: a flood of them is answered by nobody
//! (attacks.md A1, A2; CVE-2019-9512, -9513, -9515, CVE-2023-44487). Here they are paid for from a budget. Beyond it
//! h2 is handed what it ends a connection for, so that it says GOAWAY with ENHANCE_YOUR_CALM and closes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use super::wait::Wait;

/// RFC 9113 3.4.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// RFC 9113 4.1.
const HEAD: usize = 9;

/// Frame types (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

/// Frames that neither carry a request nor a body. nghttp2 and Envoy let 1,000 of them wait for an answer;
/// nghttp2's own limit on odd frames comes back at 330 a second. Measured: a Chromium that loads a page sends 5, and
/// h2load with 64 streams less than one for each request, which pays for itself.
const CONTROL: Budget = Budget { at_once: 1000, a_second: 330 };
/// Each SETTINGS can change the window of every stream, and is answered: one at the start is all that clients send.
const SETTINGS_COST: u32 = 20;
/// What a response earns: two control frames for each DATA frame, since clients give back what they took of it to the
/// stream and to the connection. It may have been a small one: a client that gives back each piece when its window is
/// used up gets ever smaller ones (the h2 crate's does). And one for so many bytes, for clients that give back a large
/// frame piece by piece; of 512 bytes then.
const DATA_EARNS: u64 = 2;
const BYTES_EARN: u64 = 256;
/// So many that were earned wait to be used: a client may take 4,000 small pieces late, and give them back at once.
const EARNED_AT_MOST: u64 = 8000 * MILLION;
/// What a request earns: older clients send a PRIORITY with each, newer ones a PRIORITY_UPDATE, and
/// what comes for a response without a body still needs its windows back.
const REQUEST_EARNS: u64 = 4;

/// Streams that the client takes back. A browser that leaves a page takes back all it has open, 64 here, at once; four
/// times that, and then as many a second as nghttp2 allows. (Its 1,000 at once are too many for what is behind us:
/// Waitress goes on with a request whose client is gone.)
const RESETS: Budget = Budget { at_once: RESETS_AT_ONCE, a_second: 33 };
pub(super) const RESETS_AT_ONCE: u32 = 256;

/// How long the end may take: for the rest of the last frame, and for GOAWAY to be taken.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// A WINDOW_UPDATE of less is answered with a DATA frame as small, which is given back with another (the silly window
/// syndrome, RFC 1122 4.2.3.4). So the next frames are read a moment later, together.
const SILLY_WINDOW: u32 = 256;
const SILLY_PAUSE: Duration = Duration::from_millis(10);

/// What a client may do at once, and what comes back of it.
#[derive(Clone, Copy, Debug)]
struct Budget {
    at_once: u32,
    a_second: u32,
}

/// What is left of a budget.
#[derive(Debug)]
struct Bucket {
    budget: Budget,
    /// In millionths.
    left: u64,
    filled: Instant,
}

const MILLION: u64 = 1_000_000;

impl Bucket {
    fn new(budget: Budget) -> Self {
        Self { budget, left: u64::from(budget.at_once) * MILLION, filled: Instant::now() }
    }

    /// Takes `cost`, if it is there; of what was earned, when the rest is used up. Filled only when it seems empty: an
    /// honest client never makes us look at the clock.
    fn take(&mut self, cost: u32, earned: &mut u64) -> bool {
        let cost = u64::from(cost) * MILLION;
        if self.left < cost {
            let now = Instant::now();
            let elapsed = u64::try_from((now - self.filled).as_micros()).unwrap_or(u64::MAX);
            let gained = elapsed.saturating_mul(u64::from(self.budget.a_second));
            let full = u64::from(self.budget.at_once) * MILLION;
            self.left = self.left.saturating_add(gained).min(full);
            let used = (*earned).min(full - self.left);
            self.left += used;
            *earned -= used;
            self.filled = now;
        }
        let enough = self.left >= cost;
        self.left -= if enough { cost } else { 0 };
        enough
    }
}

/// Follows the frames of one connection.
pub(super) struct Frames {
    received: Boundaries,
    sent: Boundaries,
    block: Block,
    control: Bucket,
    resets: Bucket,
    /// What our responses and its requests have earned the client, in millionths of a control frame.
    earned: u64,
    /// How long a header block may take, from its first frame to its last byte.
    within: Duration,
    /// When what has to be whole in time was first seen not to be.
    since: Option<Instant>,
    late: Wait,
    /// Whether the next read waits.
    is_silly: bool,
    pause: Wait,
    end: End,
}

/// Where in the frames of one side we are.
enum Boundaries {
    /// In a payload, or in the preface, of which this many bytes are to come; and the last four of those before.
    Payload { kind: u8, left: usize, last: u32 },
    /// In the head of a frame of which so many bytes have come.
    Head { head: [u8; HEAD], have: usize },
}

enum Boundary {
    Begin {
        kind: u8,
        flags: u8,
        length: usize,
    },
    /// The end of a frame, and its last four bytes.
    End {
        kind: u8,
        last: u32,
    },
}

impl Boundaries {
    const START: Self = Self::Head { head: [0; HEAD], have: 0 };

    /// Follows the bytes of `rest` up to where a frame begins or ends next.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Boundary> {
        match self {
            Self::Payload { kind, left, last } => {
                let (taken, after) = rest.split_at(rest.len().min(*left));
                (*left, *rest) = (*left - taken.len(), after);
                let tail = &taken[taken.len().saturating_sub(4)..];
                *last = tail.iter().fold(*last, |last, byte| (last << 8) | u32::from(*byte));
                if *left > 0 {
                    return None;
                }
                let end = Boundary::End { kind: *kind, last: *last };
                *self = Self::START;
                Some(end)
            }
            Self::Head { head, have } => {
                let taken = rest.len().min(HEAD - *have);
                head[*have..*have + taken].copy_from_slice(&rest[..taken]);
                (*have, *rest) = (*have + taken, &rest[taken..]);
                if *have < HEAD {
                    return None;
                }
                let [high, middle, low, kind, flags, ..] = *head;
                let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                *self = Self::Payload { kind, left: length, last: 0 };
                Some(Boundary::Begin { kind, flags, length })
            }
        }
    }
}

/// The header block that is coming (RFC 9113 4.3). The preface is taken for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Block {
    No,
    /// More frames of it are to come.
    Begun,
    /// This frame is its last.
    Ends,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// Within the budget.
    No,
    /// As soon as the frame is whole that was one too many.
    Next,
    /// h2 is given what it ends the connection for, of which it has so many bytes.
    Given(usize),
}

impl Frames {
    /// Of a connection that begins now, each of whose header blocks has to be whole `within` this time.
    pub(super) fn new(within: Duration) -> Self {
        Self {
            received: Boundaries::Payload { kind: HEADERS, left: PREFACE, last: 0 },
            sent: Boundaries::START,
            block: Block::Ends,
            control: Bucket::new(CONTROL),
            resets: Bucket::new(RESETS),
            earned: 0,
            within,
            since: Some(Instant::now()),
            late: Wait::default(),
            is_silly: false,
            pause: Wait::default(),
            end: End::No,
        }
    }

    /// Whether the client is beyond its budget, and the connection about to end.
    pub(super) fn is_over(&self) -> bool {
        self.end != End::No
    }

    /// Notes what was written to the client.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(boundary) = self.sent.next(&mut bytes) {
            if let Boundary::Begin { kind: DATA, length, .. } = boundary
                && length > 0
            {
                self.earn(DATA_EARNS.max(length as u64 / BYTES_EARN));
            }
        }
    }

    /// Reads for h2: what the client sent, up to the frame that is one too many.
    pub(super) fn poll_read<S: AsyncRead>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let End::Given(given) = &mut self.end {
            *given += farewell(*given, buf);
            return Poll::Ready(Ok(()));
        }
        if self.is_silly {
            ready!(self.pause.poll_until(|| Instant::now() + SILLY_PAUSE, cx));
            self.pause.disarm();
            self.is_silly = false;
        }
        let before = buf.filled().len();
        match stream.poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let followed = self.follow(&buf.filled()[before..]);
                buf.set_filled(before + followed);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let Some(since) = self.since else { return Poll::Pending };
                let limit = if self.is_over() { FAREWELL } else { self.within };
                ready!(self.late.poll_until(|| since + limit, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Follows the next bytes of the connection. Gives how many of them h2 may have.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !matches!(self.end, End::Given(_))
            && let Some(boundary) = self.received.next(&mut rest)
        {
            match boundary {
                Boundary::Begin { kind, flags, .. } => self.begins(kind, flags),
                Boundary::End { kind, last } => self.ended(kind, last),
            }
        }
        if self.block != Block::No || self.end == End::Next {
            self.since.get_or_insert_with(Instant::now);
        } else if self.since.is_some() {
            self.no_longer_awaited();
        }
        bytes.len() - rest.len()
    }

    fn begins(&mut self, kind: u8, flags: u8) {
        let within = match kind {
            DATA => true,
            HEADERS | CONTINUATION => {
                self.block = if flags & END_HEADERS == 0 { Block::Begun } else { Block::Ends };
                self.earn(if kind == HEADERS { REQUEST_EARNS } else { 0 });
                true
            }
            RST_STREAM => self.resets.take(1, &mut 0) && self.control.take(1, &mut self.earned),
            SETTINGS => self.control.take(SETTINGS_COST, &mut self.earned),
            _ => self.control.take(1, &mut self.earned),
        };
        if !within && self.end == End::No {
            tracing::debug!(
                kind,
                "connection ended: more frames than its requests and responses account for"
            );
            self.end = End::Next;
            self.no_longer_awaited();
        }
    }

    fn ended(&mut self, kind: u8, last: u32) {
        // The first bit is reserved, and says nothing (RFC 9113 6.9).
        self.is_silly |= kind == WINDOW_UPDATE && last & 0x7fff_ffff < SILLY_WINDOW;
        if self.block == Block::Ends {
            self.block = Block::No;
        }
        if self.end == End::Next {
            self.end = End::Given(0);
        }
    }

    fn no_longer_awaited(&mut self) {
        self.since = None;
        self.late.disarm();
    }

    fn earn(&mut self, frames: u64) {
        self.earned = self.earned.saturating_add(frames.saturating_mul(MILLION)).min(EARNED_AT_MOST);
    }
}

/// Puts more of what h2 ends a connection for into `buf`, after `given` bytes: an empty header block in ever more
/// pieces. h2 counts the pieces, says GOAWAY with ENHANCE_YOUR_CALM, and closes; it never sees a request. Within
/// a header block of the client's own, the second HEADERS is an error that ends the connection as well.
fn farewell(given: usize, buf: &mut ReadBuf<'_>) -> usize {
    let kind = if given < HEAD { HEADERS } else { CONTINUATION };
    let head = [0, 0, 0, kind, 0, 0, 0, 0, 1];
    let piece = &head[given % HEAD..];
    let piece = &piece[..piece.len().min(buf.remaining())];
    buf.put_slice(piece);
    piece.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    const SECOND: Duration = Duration::from_secs(1);
    const PING: u8 = 6;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A connection of which nothing but the preface has come.
    fn begun() -> Frames {
        let mut frames = Frames::new(10 * SECOND);
        assert_eq!(frames.follow(PREFACE), PREFACE.len());
        frames
    }

    /// How many of `frame` are let through.
    fn let_through(frames: &mut Frames, frame: &[u8]) -> usize {
        let mut count = 0;
        while !frames.is_over() {
            assert_eq!(frames.follow(frame), frame.len());
            count += 1;
        }
        assert_eq!(frames.follow(frame), 0, "nothing comes after the one too many");
        count
    }

    /// What h2 reads of `source`, with buffers of so many bytes.
    async fn read(frames: &mut Frames, mut source: &[u8], sizes: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut read = Vec::new();
        for size in sizes {
            let mut space = vec![0; size];
            let mut buf = ReadBuf::new(&mut space);
            let ready = std::future::poll_fn(|cx| frames.poll_read(Pin::new(&mut source), cx, &mut buf));
            ready.await.unwrap();
            read.extend_from_slice(buf.filled());
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a2_control_frames_have_a_budget() {
        for (kind, payload, limit) in [
            (2, 5, 1001),
            (PING, 8, 1001),
            (8, 4, 1001),
            (0xbe, 0, 1001),
            (0xbe, 500, 1001),
            (SETTINGS, 0, 51),
            (RST_STREAM, 4, 257),
        ] {
            let frame = frame(kind, 0, &vec![0; payload]);
            assert_eq!(let_through(&mut begun(), &frame), limit, "type {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bodies_have_none_here() {
        let mut frames = begun();
        for kind in [DATA, HEADERS, CONTINUATION] {
            for _ in 0..100_000 {
                frames.follow(&frame(kind, END_HEADERS, &[0; 3]));
            }
        }
        assert!(!frames.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_comes_back_with_time_and_is_had_twice_at_the_most() {
        let mut frames = begun();
        for _ in 0..1000 {
            frames.follow(&frame(PING, 0, &[0; 8]));
        }
        tokio::time::advance(SECOND).await;
        assert_eq!(let_through(&mut frames, &frame(PING, 0, &[0; 8])), 331);
        let mut frames = begun();
        tokio::time::advance(3600 * SECOND).await;
        assert_eq!(let_through(&mut frames, &frame(PING, 0, &[0; 8])), 2001);
    }

    #[tokio::test(start_paused = true)]
    async fn responses_and_requests_earn_control_frames_and_no_resets() {
        let mut frames = begun();
        for length in [1, 16_384] {
            let (data, each) = (frame(DATA, 0, &vec![0; length]), (length / 256).max(2));
            for _ in 0..10_000 {
                let (part, rest) = data.split_at(7);
                frames.sent(part);
                frames.sent(rest);
                (0..each).for_each(|_| assert_eq!(frames.follow(&frame(8, 0, &[0, 0, 2, 0])), 13));
            }
        }
        for _ in 0..100_000 {
            frames.follow(&frame(HEADERS, END_HEADERS, &[0; 3]));
            frames.follow(&frame(2, 0, &[0; 5]));
        }
        assert!(!frames.is_over());
        frames.sent(&frame(DATA, 0, &[0; 1 << 23]));
        assert_eq!(let_through(&mut frames, &frame(RST_STREAM, 0, &[0; 4])), 257);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_earned_is_there_for_a_client_that_is_late() {
        let mut frames = begun();
        for _ in 0..4000 {
            frames.sent(&frame(DATA, 0, &[0; 100]));
        }
        // And no more than is kept, with what may be had at once.
        assert_eq!(let_through(&mut frames, &frame(WINDOW_UPDATE, 0, &[0, 0, 2, 0])), 9001);
        let mut frames = begun();
        frames.sent(&frame(DATA, 0, &[0; 1 << 23]));
        assert_eq!(let_through(&mut frames, &frame(WINDOW_UPDATE, 0, &[0, 0, 2, 0])), 9001);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_tiny_window_the_next_frames_are_read_a_moment_later() {
        for (more, waits) in [(1, true), (255, true), (1 << 31 | 1, true), (256, false), (1 << 20, false)] {
            let mut frames = begun();
            let (mut ours, mut theirs) = tokio::io::duplex(256);
            let update = frame(WINDOW_UPDATE, 0, &u32::to_be_bytes(more));
            let began = Instant::now();
            for _ in 0..3 {
                theirs.write_all(&update).await.unwrap();
                let mut space = [0; 64];
                let mut buf = ReadBuf::new(&mut space);
                std::future::poll_fn(|cx| frames.poll_read(Pin::new(&mut ours), cx, &mut buf)).await.unwrap();
                assert_eq!(buf.filled(), update);
            }
            let expected = if waits { 2 * SILLY_PAUSE } else { Duration::ZERO };
            assert_eq!(began.elapsed(), expected, "{more} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a2_what_answers_a_control_frame_earns_none() {
        let mut frames = begun();
        for _ in 0..1000 {
            frames.follow(&frame(PING, 0, &[0; 8]));
            frames.sent(&[frame(PING, 1, &[0; 8]), frame(DATA, 0, &[])].concat());
        }
        assert_eq!(let_through(&mut frames, &frame(PING, 0, &[0; 8])), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a2_beyond_the_budget_h2_reads_what_it_says_enhance_your_calm_to() {
        let mut frames = begun();
        let ping = frame(PING, 0, &[0; 8]);
        let flood = ping.repeat(1500);
        let read = read(&mut frames, &flood, [16_384, 16_384, 4, 5, 9, 100, 2, 50]).await;
        let (through, end) = read.split_at(1001 * ping.len());
        assert_eq!(through, ping.repeat(1001));
        assert_eq!(end[..9], [0, 0, 0, HEADERS, 0, 0, 0, 0, 1]);
        assert_eq!(end[9..], [0, 0, 0, CONTINUATION, 0, 0, 0, 0, 1].repeat(3)[..end.len() - 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn a2_the_end_does_not_wait_for_the_rest_of_the_last_frame() {
        let mut frames = begun();
        for _ in 0..1000 {
            frames.follow(&frame(PING, 0, &[0; 8]));
        }
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(&frame(PING, 0, &[0; 8])[..12]).await.unwrap();
        let began = Instant::now();
        let mut space = [0; 64];
        let mut end = None;
        for _ in 0..2 {
            let mut buf = ReadBuf::new(&mut space);
            end = Some(std::future::poll_fn(|cx| frames.poll_read(Pin::new(&mut ours), cx, &mut buf)).await);
        }
        assert_eq!(end.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), FAREWELL);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_header_block_and_the_preface_have_to_be_whole_in_time() {
        let begun_block = frame(HEADERS, 0, &[0; 9]);
        let drips = frame(HEADERS, END_HEADERS, &[0; 9]);
        let whole = frame(HEADERS, END_HEADERS, &[0; 3]);
        for (bytes, limit) in [
            (&[][..], 10),
            (&PREFACE[..23], 10),
            (&[PREFACE, &begun_block].concat(), 10),
            (&[PREFACE, &begun_block, &frame(CONTINUATION, 0, &[])].concat(), 10),
            (&[PREFACE, &drips[..17]].concat(), 10),
            (PREFACE, 600),
            (&[PREFACE, &whole].concat(), 600),
            (&[PREFACE, &begun_block, &frame(CONTINUATION, END_HEADERS, &[])].concat(), 600),
            (&[PREFACE, &frame(DATA, 0, &[0; 9])[..17]].concat(), 600),
        ] {
            let mut frames = Frames::new(10 * SECOND);
            let (mut ours, mut theirs) = tokio::io::duplex(256);
            theirs.write_all(bytes).await.unwrap();
            let began = Instant::now();
            let reading = async {
                loop {
                    let mut space = [0; 64];
                    let mut buf = ReadBuf::new(&mut space);
                    let read = std::future::poll_fn(|cx| frames.poll_read(Pin::new(&mut ours), cx, &mut buf));
                    if read.await.is_err() {
                        break;
                    }
                }
            };
            let _given_up = tokio::time::timeout(600 * SECOND, reading).await;
            assert_eq!(began.elapsed().as_secs(), limit, "{bytes:?}");
            drop(theirs);
        }
    }

    /// Frames of all kinds, some whole, so that random bytes are often frames.
    fn material() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![0_u8..12, Just(SETTINGS)];
        let one = (kind, 0_u8..40, 0_usize..40);
        let one = one.prop_map(|(kind, flags, size)| frame(kind, flags, &vec![7; size]));
        prop::collection::vec(one, 0..200).prop_map(|frames| [PREFACE, &frames.concat()].concat())
    }

    proptest! {
        #[test]
        fn what_h2_reads_does_not_depend_on_how_the_bytes_are_cut(
            bytes in material(), cuts in prop::collection::vec(1_usize..30, 0..400)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let (pieces, whole) = runtime.block_on(async {
                let (mut pieces, mut whole) = (Frames::new(SECOND), Frames::new(SECOND));
                let (mut rest, mut passed) = (&bytes[..], 0);
                for cut in cuts {
                    let (piece, after) = rest.split_at(cut.min(rest.len()));
                    passed += pieces.follow(piece);
                    rest = after;
                }
                passed += pieces.follow(rest);
                let expected = whole.follow(&bytes);
                ((passed, pieces.is_over(), pieces.block), (expected, whole.is_over(), whole.block))
            });
            prop_assert_eq!(pieces, whole);
        }
    }
}
