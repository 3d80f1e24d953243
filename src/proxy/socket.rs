//! A socket to an origin: counted, and listened to more patiently than hyper does.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::either::Either;

use super::egress::Stream;

/// What a request and its socket know of each other past hyper, which owns the socket.
#[derive(Default)]
pub(super) struct Notes {
    /// How many bytes came since a request began.
    pub(super) received: AtomicU64,
    /// Whether the head of its response is there.
    pub(super) answered: AtomicBool,
    /// Whether the socket is to be closed with a reset.
    pub(super) reset: AtomicBool,
}

/// How much may come before a response's head, in bytes. hyper reads informational responses for as long as they come:
/// with no end of them it kept a thread for seconds (attacks.md U1).
const MOST_BEFORE_A_HEAD: u64 = 1 << 20;

/// A socket that counts as open until it is really closed, after an upgrade too.
pub(super) struct Socket {
    stream: Stream,
    /// Whether the peer takes no more. It may have answered before: an origin that refuses an upload does not
    /// read it to its end. hyper would let go of that answer for the sake of the failed write, so what it
    /// still writes goes nowhere, and what it reads decides.
    deaf: bool,
    notes: Arc<Notes>,
    _permit: OwnedSemaphorePermit,
}

impl Socket {
    pub(super) fn new(stream: Stream, notes: Arc<Notes>, permit: OwnedSemaphorePermit) -> Self {
        Self { stream, deaf: false, notes, _permit: permit }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let tcp = match &self.stream {
            Either::Left(tcp) => tcp,
            Either::Right(tls) => tls.get_ref().0,
        };
        let linger = self.notes.reset.load(Ordering::Acquire).then_some(Duration::ZERO);
        // An error: the peer was first.
        SockRef::from(tcp).set_linger(linger).ok();
    }
}

impl Socket {
    fn heard(&mut self, written: io::Result<usize>, length: usize) -> Poll<io::Result<usize>> {
        match written {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.deaf = true;
                Poll::Ready(Ok(length))
            }
            written => Poll::Ready(written),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let more = (buf.filled().len() - before) as u64;
        if more > 0 {
            let received = self.notes.received.fetch_add(more, Ordering::AcqRel) + more;
            if received > MOST_BEFORE_A_HEAD && !self.notes.answered.load(Ordering::Acquire) {
                let fault = "more than 1 MiB before the head of a response";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.heard(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.heard(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing may go before a reset: a peer that answers a goodbye with its own is closed plainly.
        if self.notes.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
