//! The socket of a client that has to take what it asked for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{frames::FAREWELL, wait::Wait};
use crate::{
    in_flight::Requests,
    least_rate::{Allowance, LeastRate},
};

/// A socket that ends when the client takes nothing for too long, or too little. It is below TLS, where each byte
/// counts that the kernel could take, and not each record that is whole.
pub(super) struct Paced<S: Socket> {
    stream: S,
    requests: Requests,
    allowance: Allowance,
    /// Since when the kernel takes nothing.
    blocked: Option<Instant>,
    /// Whether the connection ends, and its last words have less time.
    is_last: bool,
    wait: Wait,
}

/// What a connection ends with.
pub(super) trait Socket {
    /// Has its close be a reset, as far as it can.
    fn reset_when_dropped(&self);
}

impl Socket for TcpStream {
    fn reset_when_dropped(&self) {
        // An error: the client was first.
        let _ = self.set_zero_linger();
    }
}

impl<S: Socket> Drop for Paced<S> {
    /// A response of unknown length to HTTP/1.0 is whole when the connection is closed, and a client may take a chunked
    /// one for whole without its last chunk. A reset nobody takes for an end (attacks.md U1).
    fn drop(&mut self) {
        if self.requests.is_broken() {
            self.stream.reset_when_dropped();
        }
    }
}

impl<S: Socket> Paced<S> {
    /// `requests` tells which responses may take as long as they like: event streams and tunnels, which only must not
    /// stand still for longer than the pause.
    pub(super) fn new(stream: S, requests: Requests, rate: LeastRate) -> Self {
        Self {
            stream,
            requests,
            allowance: Allowance::new(rate),
            blocked: None,
            is_last: false,
            wait: Wait::default(),
        }
    }

    fn taken(&mut self, outcome: &io::Result<usize>) {
        if let Some(since) = self.blocked.take() {
            self.wait.disarm();
            if self.requests.may_be_slow() {
                self.allowance.moved(usize::MAX);
            } else {
                self.allowance.waited(since.elapsed());
            }
        }
        if let Ok(bytes) = outcome {
            self.allowance.moved(*bytes);
        }
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.requests.is_at_farewell() && !std::mem::replace(&mut self.is_last, true) {
            self.blocked = None;
            self.wait.disarm();
        }
        let since = *self.blocked.get_or_insert_with(Instant::now);
        let may_be_slow = self.requests.may_be_slow();
        let mut limit = if may_be_slow { self.allowance.pause() } else { self.allowance.left() };
        if self.is_last {
            limit = limit.min(FAREWELL);
        }
        ready!(self.wait.poll_until(|| since + limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Socket + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Socket + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Poll::Ready(outcome) = Pin::new(&mut this.stream).poll_write(cx, buf) else {
            return this.poll_blocked(cx);
        };
        this.taken(&outcome);
        Poll::Ready(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Poll::Ready(outcome) = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) else {
            return this.poll_blocked(cx);
        };
        this.taken(&outcome);
        Poll::Ready(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl Socket for tokio::io::DuplexStream {
        fn reset_when_dropped(&self) {}
    }

    fn pair() -> (Paced<tokio::io::DuplexStream>, Requests, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        let requests = Requests::new();
        let rate = LeastRate { pause: 60 * SECOND, bytes_per_second: 240 };
        (Paced::new(ours, requests.clone(), rate), requests, theirs)
    }

    /// How long a client lasts that takes `sip` bytes a second, up to an hour.
    async fn lasts(
        mut paced: Paced<tokio::io::DuplexStream>,
        mut peer: tokio::io::DuplexStream,
        sip: usize,
    ) -> u64 {
        let began = Instant::now();
        let sips = tokio::spawn(async move {
            let mut buf = vec![0; sip];
            while began.elapsed() < 3600 * SECOND && peer.read_exact(&mut buf).await.is_ok() {
                tokio::time::sleep(SECOND).await;
            }
        });
        while paced.write_all(&[0; 16]).await.is_ok() {}
        let after = began.elapsed().as_secs();
        drop(paced);
        sips.await.unwrap();
        after
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_client_that_takes_nothing_is_dropped_after_a_pause() {
        let (mut paced, _, _peer) = pair();
        let began = Instant::now();
        assert_eq!(paced.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_client_that_takes_less_than_the_least_rate_is_dropped() {
        let (paced, _, peer) = pair();
        let after = lasts(paced, peer, 24).await;
        assert!((60..80).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_client_that_takes_the_least_rate_is_kept() {
        let (paced, _, peer) = pair();
        assert!(lasts(paced, peer, 256).await >= 3600);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_an_event_stream_may_be_taken_slowly() {
        let (paced, requests, peer) = pair();
        let mut in_flight = requests.begin();
        in_flight.may_be_slow();
        assert!(lasts(paced, peer, 1).await >= 3600);
    }
}
