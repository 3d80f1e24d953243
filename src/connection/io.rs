//! A client's connection as hyper has it: strictly read, and closed so that the last response arrives.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    frames::{FAREWELL, Frames},
    reading::{Heads, Reading},
    wait::Wait,
};
use crate::in_flight::Requests;

/// How long what the client sends is still taken in after the last response, and how long it may be silent meanwhile: a
/// close with unread bytes is a reset, which can overtake the response (attacks.md S12). They are the rest of a request,
/// which many clients send to its end before they look at the answer, or the WINDOW_UPDATEs of a client that is not
/// done with what we sent.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENT: Duration = Duration::from_secs(2);
/// Of a client that was ended for its frames, and goes on sending them: GOAWAY need only overtake what was on its way.
const LINGER_OF_FLOOD: usize = 256 << 10;

/// How the bytes of a client's connection are to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// HTTP/1.
    Heads(Heads),
    /// HTTP/2: each header block has this long to be whole.
    Frames { within: Duration },
}

/// A connection to a client.
pub(crate) struct ClientIo<S> {
    stream: S,
    requests: Requests,
    reader: Reader,
    silence: Wait,
    linger: Linger,
}

enum Reader {
    /// HTTP/1.
    Requests(Reading),
    /// HTTP/2.
    Frames(Frames),
}

enum Linger {
    /// The connection is in use.
    No,
    /// Our side is closed; what comes is taken in until then, and so many bytes of it.
    Until(Instant, usize),
    Done,
}

impl<S> ClientIo<S> {
    pub(crate) fn new(stream: S, requests: Requests, framing: Framing) -> Self {
        Self {
            stream,
            requests,
            reader: match framing {
                Framing::Heads(heads) => Reader::Requests(Reading::new(heads)),
                Framing::Frames { within } => Reader::Frames(Frames::new(within)),
            },
            silence: Wait::default(),
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
        let reading = match &mut this.reader {
            Reader::Requests(reading) => reading,
            Reader::Frames(frames) => {
                let read = frames.poll_read(Pin::new(&mut this.stream), cx, buf);
                if frames.is_over() {
                    this.requests.bid_farewell();
                }
                return read;
            }
        };
        if !this.requests.is_tunnel() {
            return reading.poll(&mut this.stream, &this.requests, cx, buf);
        }
        if reading.give_held(buf).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + AsyncRead + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote(&[io::IoSlice::new(buf)], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.wrote(bufs, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.linger, Linger::No) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            let is_flood = matches!(&this.reader, Reader::Frames(frames) if frames.is_over());
            let (time, bytes) = if is_flood { (FAREWELL, LINGER_OF_FLOOD) } else { (LINGER, usize::MAX) };
            this.linger = Linger::Until(Instant::now() + time, bytes);
        }
        let mut scratch = [0; 4096];
        while let Linger::Until(end, left) = &mut this.linger {
            let end = *end;
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(()))
                    if !buf.filled().is_empty() && buf.filled().len() <= *left && Instant::now() < end =>
                {
                    *left -= buf.filled().len();
                    this.silence.disarm();
                }
                Poll::Ready(_) => this.linger = Linger::Done,
                Poll::Pending => {
                    ready!(this.silence.poll_until(|| end.min(Instant::now() + LINGER_SILENT), cx));
                    this.linger = Linger::Done;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> ClientIo<S> {
    /// What a client has to say about what it takes is in proportion to it.
    fn wrote(&mut self, bufs: &[io::IoSlice<'_>], mut written: usize) {
        let Reader::Frames(frames) = &mut self.reader else { return };
        for buf in bufs {
            let here = written.min(buf.len());
            frames.sent(&buf[..here]);
            written -= here;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    #[tokio::test]
    async fn s9_a_tunnel_is_not_looked_into_and_gets_what_came_before_it() {
        let (ours, mut peer) = tokio::io::duplex(256);
        let requests = Requests::new();
        let mut io = ClientIo::new(ours, requests.clone(), heads());
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        peer.write_all(head).await.unwrap();
        peer.write_all(b"early").await.unwrap();
        io.read_exact(&mut vec![0; head.len()]).await.unwrap();
        let in_flight = requests.begin();
        assert!(tokio::time::timeout(Duration::from_millis(10), io.read_u8()).await.is_err());
        let _tunnel = in_flight.into_tunnel();
        peer.write_all(b"\n\0").await.unwrap();
        let mut read = [0; 7];
        io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early\n\0");
    }

    #[tokio::test(start_paused = true)]
    async fn s12_what_was_left_unread_is_taken_in_for_a_while() {
        let (ours, mut peer): (DuplexStream, _) = tokio::io::duplex(64);
        let mut io = ClientIo::new(ours, Requests::new(), heads());
        peer.write_all(&[0; 64]).await.unwrap();
        let began = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 2);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn s12_a_client_that_is_not_done_is_waited_for_and_not_for_ever() {
        let (ours, mut peer) = tokio::io::duplex(64);
        let mut io = ClientIo::new(ours, Requests::new(), heads());
        let drips = tokio::spawn(async move {
            while peer.write_all(&[0; 13]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let began = Instant::now();
        io.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 30);
        drop(io);
        drips.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a2_of_a_flood_that_goes_on_little_is_taken_in() {
        // As fast as it can, and a little now and then.
        for (pause, most) in [(Duration::ZERO, LINGER_OF_FLOOD), (Duration::from_millis(100), 21 * 17)] {
            let (ours, mut peer) = tokio::io::duplex(64);
            let framing = Framing::Frames { within: Duration::from_secs(10) };
            let mut io = ClientIo::new(ours, Requests::new(), framing);
            let flood = tokio::spawn(async move {
                let _preface = peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
                let mut sent = 0;
                while peer.write_all(&ping).await.is_ok() {
                    sent += ping.len();
                    // The first thousand end it.
                    if sent > 1100 * ping.len() {
                        tokio::time::sleep(pause).await;
                    }
                }
                sent - 1100 * 17
            });
            let mut space = [0; 64];
            while !matches!(&io.reader, Reader::Frames(frames) if frames.is_over()) {
                let _read = io.read(&mut space).await.unwrap();
            }
            let began = Instant::now();
            io.shutdown().await.unwrap();
            assert!(began.elapsed() <= FAREWELL, "{:?}", began.elapsed());
            drop(io);
            let sent = flood.await.unwrap();
            assert!(sent > most / 2 && sent < most + 4096, "{sent} bytes");
        }
    }

    fn heads() -> Framing {
        let bounds = crate::wire::Bounds { head: 16 << 10, target: 8 << 10, headers: 100 };
        Framing::Heads(Heads { within: Duration::from_secs(10), bounds })
    }
}
