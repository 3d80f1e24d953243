//! A client's connection with its deadlines: hyper has none for slow heads and slow readers.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    frames::{FAREWELL, Frames},
    wire::{Fault, Wire},
};
use crate::in_flight::Requests;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// How many bytes of an unread request are still taken in after the last response, and for how long: a close
/// with unread bytes is a reset, which can overtake the response that says why (attacks.md S12).
const LINGER_BYTES: usize = 256 << 10;
const LINGER_FOR: Duration = Duration::from_secs(2);

/// How the bytes of a client's connection are to be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// HTTP/1: each head has this long to be whole, and this many bytes.
    Heads { within: Duration, size: usize },
    /// HTTP/2: each header block has this long to be whole.
    Frames { within: Duration },
}

/// What hyper is given in the place of a head that is none: it answers 400, and closes.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// A connection to a client that ends by itself when nothing moves.
pub(crate) struct ClientIo<S> {
    stream: S,
    requests: Requests,
    /// `None` for HTTP/2.
    heads: Option<Heads>,
    /// `None` for HTTP/1.
    frames: Option<Frames>,
    /// The longest pause between two writes that the client takes.
    write_limit: Duration,
    writing: Wait,
    lingering: Wait,
    linger: Linger,
}

/// The heads of HTTP/1 requests as they come.
struct Heads {
    within: Duration,
    wire: Wire,
    /// When the head began that is not whole yet.
    since: Option<Instant>,
    wait: Wait,
    /// Whether something came that is no request: nothing after it is read.
    refused: bool,
}

impl Heads {
    fn new(within: Duration, size: usize) -> Self {
        Self { within, wire: Wire::new(size), since: None, wait: Wait::default(), refused: false }
    }

    /// Looks at what was read behind the first `before` bytes of `buf`. A head that is none is replaced by one that
    /// hyper answers 400; in a body the error is all that can be said.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let between_requests = self.wire.is_between_requests_or_in_head();
        let heads = self.wire.heads();
        let followed = self.wire.follow(&buf.filled()[before..]);
        let Err(fault) = followed else {
            self.since =
                if self.wire.is_in_head() { self.since.or_else(|| Some(Instant::now())) } else { None };
            self.wait.disarm();
            return Ok(());
        };
        tracing::debug!(%fault, "refused before it is a request");
        self.refused = true;
        self.since = None;
        // Only if hyper has nothing of another request still to read: else it would take this for a body.
        if between_requests && self.wire.heads() == heads && matches!(fault, Fault::Head(_)) {
            buf.set_filled(before);
            buf.put_slice(&NO_HEAD[..NO_HEAD.len().min(buf.remaining())]);
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, fault))
    }
}

/// A deadline that is set when waiting begins.
#[derive(Default)]
pub(super) struct Wait {
    /// Kept between waits: setting a timer anew is cheaper than making one.
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Wait {
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(super) fn poll_until(
        &mut self,
        deadline: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.armed {
            self.armed = true;
            let deadline = deadline();
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

enum Linger {
    /// The connection is in use.
    No,
    /// Our side is closed; this many bytes are still taken in.
    Until {
        bytes: usize,
    },
    Done,
}

impl<S> ClientIo<S> {
    pub(crate) fn new(stream: S, requests: Requests, framing: Framing, write_limit: Duration) -> Self {
        Self {
            stream,
            requests,
            heads: match framing {
                Framing::Heads { within, size } => Some(Heads::new(within, size)),
                Framing::Frames { .. } => None,
            },
            frames: match framing {
                Framing::Frames { within } => Some(Frames::new(within)),
                Framing::Heads { .. } => None,
            },
            write_limit,
            lingering: Wait::default(),
            writing: Wait::default(),
            linger: Linger::No,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(frames) = &mut this.frames {
            let read = frames.poll_read(Pin::new(&mut this.stream), cx, buf);
            if frames.is_over() {
                // What could not be written so far has less time from now on.
                this.writing.disarm();
            }
            return read;
        }
        let before = buf.filled().len();
        let Some(heads) = this.heads.as_mut().filter(|_| !this.requests.is_tunnel()) else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        if heads.refused {
            return Poll::Ready(Ok(()));
        }
        match (Pin::new(&mut this.stream).poll_read(cx, buf), heads.since) {
            (Poll::Ready(Ok(())), _) => Poll::Ready(heads.look(buf, before)),
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(since)) => {
                std::task::ready!(heads.wait.poll_until(|| since + heads.within, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + AsyncRead + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(outcome) => Poll::Ready(this.wrote(outcome)),
            Poll::Pending => this.poll_slow_reader(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) {
            Poll::Ready(outcome) => Poll::Ready(this.wrote(outcome)),
            Poll::Pending => this.poll_slow_reader(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_flush(cx) {
            Poll::Ready(outcome) => {
                this.writing.disarm();
                Poll::Ready(outcome)
            }
            Poll::Pending => this.poll_slow_reader(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.linger, Linger::No) {
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => this.linger = Linger::Until { bytes: LINGER_BYTES },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return this.poll_slow_reader(cx),
            }
        }
        let mut scratch = [0; 4096];
        while let Linger::Until { bytes } = this.linger {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut buf);
            let taken = buf.filled().len();
            match read {
                Poll::Ready(Ok(())) if taken > 0 && taken < bytes => {
                    this.linger = Linger::Until { bytes: bytes - taken };
                }
                Poll::Ready(_) => this.linger = Linger::Done,
                Poll::Pending => {
                    std::task::ready!(this.lingering.poll_until(|| Instant::now() + LINGER_FOR, cx));
                    this.linger = Linger::Done;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> ClientIo<S> {
    fn wrote(&mut self, outcome: io::Result<usize>) -> io::Result<usize> {
        self.writing.disarm();
        if let (Some(frames), Ok(written)) = (&mut self.frames, &outcome) {
            frames.sent(*written);
        }
        outcome
    }

    /// The client takes nothing: it has the write limit to change that, or less if it is to be ended anyway.
    fn poll_slow_reader<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let is_over = self.frames.as_ref().is_some_and(Frames::is_over);
        let limit = if is_over { self.write_limit.min(FAREWELL) } else { self.write_limit };
        std::task::ready!(self.writing.poll_until(|| Instant::now() + limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SECOND: Duration = Duration::from_secs(1);
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn pair(requests: &Requests) -> (ClientIo<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (
            ClientIo::new(
                ours,
                requests.clone(),
                Framing::Heads { within: 10 * SECOND, size: 16 << 10 },
                60 * SECOND,
            ),
            theirs,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_head_that_drips_ends_after_its_limit() {
        let (mut io, mut peer) = pair(&Requests::new());
        let drip = tokio::spawn(async move {
            while peer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND).await;
            }
        });
        let began = Instant::now();
        while io.read_u8().await.is_ok() {}
        assert!((10..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        drop(io);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn s5_what_is_no_head_is_replaced_and_nothing_after_it_is_read() {
        let (mut io, mut peer) = pair(&Requests::new());
        peer.write_all(b"GET / HTTP/1.1\nHost: a\r\n\r\nGET /x").await.unwrap();
        let mut read = Vec::new();
        io.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, NO_HEAD);
    }

    #[tokio::test]
    async fn s9_what_is_no_head_behind_a_body_never_becomes_part_of_it() {
        let (mut io, mut peer) = pair(&Requests::new());
        peer.write_all(b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd").await.unwrap();
        io.read_exact(&mut [0; 41]).await.unwrap();
        peer.write_all(b"efghiGET / HTTP/1.1\n").await.unwrap();
        assert_eq!(io.read(&mut [0; 64]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_tunnel_is_not_looked_into() {
        let requests = Requests::new();
        let (mut io, mut peer) = pair(&requests);
        requests.begin().into_tunnel();
        peer.write_all(b"\n\0").await.unwrap();
        io.read_exact(&mut [0; 2]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn l1_between_two_requests_nothing_is_owed() {
        let (mut io, mut peer) = pair(&Requests::new());
        peer.write_all(HEAD).await.unwrap();
        io.read_exact(&mut [0; HEAD.len()]).await.unwrap();
        assert!(tokio::time::timeout(600 * SECOND, io.read_u8()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_client_that_takes_nothing_is_dropped() {
        let (mut io, _peer) = pair(&Requests::new());
        let began = Instant::now();
        assert_eq!(io.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn s12_what_was_left_unread_is_taken_in_for_a_while() {
        let (mut io, mut peer) = pair(&Requests::new());
        peer.write_all(&[0; 64]).await.unwrap();
        let began = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 2);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
    }
}
