//! A client's connection with its deadlines: hyper has none for slow heads and slow readers.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
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
    /// HTTP/1: what comes between two requests is the next one's head, which has this long to be whole.
    Heads(Duration),
    /// HTTP/2: bytes may come at any time, and mean nothing for the requests.
    Frames,
}

/// A connection to a client that ends by itself when nothing moves.
pub(crate) struct ClientIo<S> {
    stream: S,
    requests: Requests,
    framing: Framing,
    /// The longest pause between two writes that the client takes.
    write_limit: Duration,
    reading: Wait,
    /// When the head that is being read began, and how many came before it; `None` between requests.
    head: Option<(Instant, usize)>,
    writing: Wait,
    linger: Linger,
}

/// A deadline that is set when waiting begins.
#[derive(Default)]
struct Wait {
    /// Kept between waits: setting a timer anew is cheaper than making one.
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Wait {
    fn disarm(&mut self) {
        self.armed = false;
    }

    fn poll_until(&mut self, deadline: impl FnOnce() -> Instant, cx: &mut Context<'_>) -> Poll<()> {
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
            framing,
            write_limit,
            reading: Wait::default(),
            head: None,
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
        let Framing::Heads(limit) = this.framing else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        let begun = this.requests.begun();
        if this.head.is_some_and(|(_, before)| before != begun) {
            this.head = None;
            this.reading.disarm();
        }
        match (Pin::new(&mut this.stream).poll_read(cx, buf), this.head) {
            (Poll::Ready(outcome), head) => {
                if head.is_none() && !this.requests.any() {
                    this.head = Some((Instant::now(), begun));
                }
                Poll::Ready(outcome)
            }
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some((since, _))) => {
                std::task::ready!(this.reading.poll_until(|| since + limit, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + AsyncRead + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(outcome) => {
                this.writing.disarm();
                Poll::Ready(outcome)
            }
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
            Poll::Ready(outcome) => {
                this.writing.disarm();
                Poll::Ready(outcome)
            }
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
            this.reading.disarm();
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
                    std::task::ready!(this.reading.poll_until(|| Instant::now() + LINGER_FOR, cx));
                    this.linger = Linger::Done;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> ClientIo<S> {
    /// The client takes nothing: it has `deadlines.write` to change that.
    fn poll_slow_reader<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let limit = self.write_limit;
        std::task::ready!(self.writing.poll_until(|| Instant::now() + limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SECOND: Duration = Duration::from_secs(1);

    fn pair(requests: &Requests) -> (ClientIo<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (ClientIo::new(ours, requests.clone(), Framing::Heads(10 * SECOND), 60 * SECOND), theirs)
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

    #[tokio::test(start_paused = true)]
    async fn l1_what_comes_while_a_request_is_answered_is_no_head() {
        let requests = Requests::new();
        let _in_flight = requests.begin();
        let (mut io, mut peer) = pair(&requests);
        peer.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        assert!(tokio::time::timeout(600 * SECOND, io.read_u8()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn l1_after_a_quick_request_nothing_is_owed() {
        let requests = Requests::new();
        let (mut io, mut peer) = pair(&requests);
        peer.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        drop(requests.begin());
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
