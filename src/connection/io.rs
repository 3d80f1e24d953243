//! A client's connection with its deadlines: hyper has none for idle connections, slow heads and slow readers.

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

/// The limits of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// Between two requests.
    pub(crate) idle: Duration,
    /// From the first byte of a request to the end of its head.
    pub(crate) head: Duration,
    /// Between two writes that the client takes.
    pub(crate) write: Duration,
}

/// A connection to a client that ends by itself when nothing moves.
pub(crate) struct ClientIo<S> {
    stream: S,
    requests: Requests,
    deadlines: Deadlines,
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
    pub(crate) fn new(stream: S, requests: Requests, deadlines: Deadlines) -> Self {
        Self {
            stream,
            requests,
            deadlines,
            reading: Wait::default(),
            head: None,
            writing: Wait::default(),
            linger: Linger::No,
        }
    }

    /// Ready when a client that owes us something has let the time for it pass.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Deadlines { idle, head, .. } = self.deadlines;
            let deadline = self.head.map_or_else(|| Instant::now() + idle, |(since, _)| since + head);
            std::task::ready!(self.reading.poll_until(|| deadline, cx));
            self.reading.disarm();
            if !self.requests.any() {
                return Poll::Ready(());
            }
            // A request is being answered; its body has a deadline of its own. Looked at again in a while,
            // since nothing wakes us when it ends.
            self.head = None;
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
        let begun = this.requests.begun();
        if this.head.is_some_and(|(_, before)| before != begun) {
            this.head = None;
            this.reading.disarm();
        }
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                if this.head.is_none() && !this.requests.any() {
                    this.head = Some((Instant::now(), begun));
                }
                this.reading.disarm();
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                std::task::ready!(this.poll_patience(cx));
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
        let limit = self.deadlines.write;
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
        let deadlines = Deadlines { idle: 75 * SECOND, head: 10 * SECOND, write: 60 * SECOND };
        (ClientIo::new(ours, requests.clone(), deadlines), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn l1_an_idle_connection_ends_after_its_limit() {
        let (mut io, _peer) = pair(&Requests::default());
        let began = Instant::now();
        assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_head_that_drips_ends_after_its_limit() {
        let (mut io, mut peer) = pair(&Requests::default());
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
    async fn l1_a_connection_with_a_request_in_flight_does_not_end() {
        let requests = Requests::default();
        let in_flight = requests.begin();
        let (mut io, _peer) = pair(&requests);
        assert!(tokio::time::timeout(600 * SECOND, io.read_u8()).await.is_err());
        drop(in_flight);
        assert!(tokio::time::timeout(151 * SECOND, io.read_u8()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn l1_after_a_quick_request_the_connection_is_idle_and_not_in_a_head() {
        let requests = Requests::default();
        let (mut io, mut peer) = pair(&requests);
        peer.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        drop(requests.begin());
        let began = Instant::now();
        io.read_u8().await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_client_that_takes_nothing_is_dropped() {
        let (mut io, _peer) = pair(&Requests::default());
        let began = Instant::now();
        assert_eq!(io.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn s12_what_was_left_unread_is_taken_in_for_a_while() {
        let (mut io, mut peer) = pair(&Requests::default());
        peer.write_all(&[0; 64]).await.unwrap();
        let began = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 2);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
    }
}
