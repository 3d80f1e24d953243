//! One connection to the backend: HTTP/1.1 by hand.

use std::{io, net::SocketAddr, time::Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{
    Recorded, Shared,
    reply::{Content, Feed, Piece, Reply},
};
use crate::harness::raw::Stream;

/// What is kept of a body.
const KEPT: usize = 1024 * 1024;

struct Connection<'a> {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    /// Read, and not yet used.
    buffer: Vec<u8>,
    shared: &'a Shared,
    number: usize,
    peer: SocketAddr,
}

/// How the request's body is delimited.
enum Framing {
    Length(u64),
    Chunked,
}

/// Serves requests until either side closes.
pub(super) async fn serve(stream: Box<dyn Stream>, shared: &Shared, (number, peer): (usize, SocketAddr)) {
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection { reader, writer, buffer: Vec::new(), shared, number, peer };
    // An error is the relay's closing, which the records tell of.
    while let Ok(true) = connection.exchange().await {}
}

impl Connection<'_> {
    /// One request and its response; false when the connection is to be closed.
    async fn exchange(&mut self) -> io::Result<bool> {
        let mut hang_ups = self.shared.hang_ups.subscribe();
        hang_ups.mark_unchanged();
        if self.buffer.is_empty() {
            tokio::select! {
                more = self.fill() => if !more? { return Ok(false) },
                _ = hang_ups.changed() => return Ok(false),
            }
        }
        let head = String::from_utf8_lossy(&self.take_through(b"\r\n\r\n").await?).into_owned();
        let index = self.record(head);
        let request = self.shared.requests.borrow()[index].clone();
        let reply = match self.shared.routes.iter().find(|(path, _)| path == request.path()) {
            Some((_, handler)) => handler(&request),
            None => Reply::ok("ok"),
        };
        let done = self.answer(index, &request, reply).await;
        if done.is_err() {
            self.shared.requests.send_modify(|requests| requests[index].abandoned = true);
        }
        done
    }

    fn record(&self, head: String) -> usize {
        let mut start = head.split(' ');
        let mut word = || start.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let recorded = Recorded {
            head,
            method,
            target,
            body: Vec::new(),
            length: 0,
            ended: None,
            connection: self.number,
            peer: self.peer,
            abandoned: false,
            trailers: String::new(),
        };
        let mut index = 0;
        self.shared.requests.send_modify(|requests| {
            index = requests.len();
            requests.push(recorded);
        });
        index
    }

    async fn answer(&mut self, index: usize, request: &Recorded, reply: Reply) -> io::Result<bool> {
        let framing = framing(request);
        let close = reply.close;
        if matches!(reply.content, Content::Echo) {
            self.write(reply.head().as_bytes()).await?;
            self.body(index, framing, Onward::Echo).await?;
            self.write(b"0\r\n\r\n").await?;
            return Ok(!close);
        }
        if reply.early {
            self.respond(request, reply).await?;
            if close {
                return Ok(false);
            }
            self.body(index, framing, Onward::Nowhere).await?;
            return Ok(true);
        }
        if request.header("expect").is_some() {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        tokio::time::sleep(reply.reads_after).await;
        self.body(index, framing, Onward::Nowhere).await?;
        Ok(self.respond(request, reply).await? && !close)
    }

    /// Writes the response; false when the connection ends with it.
    async fn respond(&mut self, request: &Recorded, reply: Reply) -> io::Result<bool> {
        match reply.content {
            Content::Raw(_) | Content::Silence => {}
            Content::Whole(_) | Content::Zeros(_) | Content::Feed | Content::Echo | Content::Tunnel => {
                self.write(reply.head().as_bytes()).await?;
            }
        }
        if request.method == "HEAD" && !matches!(reply.content, Content::Raw(_) | Content::Silence) {
            return Ok(true);
        }
        match reply.content {
            Content::Whole(body) => self.write(&body).await?,
            Content::Zeros(length) => self.zeros(length).await?,
            Content::Feed => return self.feed().await,
            Content::Raw(bytes) => {
                self.write(&bytes).await?;
                return Ok(false);
            }
            Content::Tunnel => {
                self.tunnel().await?;
                return Ok(false);
            }
            Content::Silence => return self.until_closed().await,
            Content::Echo => unreachable!("answered while the body was read"),
        }
        Ok(true)
    }

    async fn zeros(&mut self, length: u64) -> io::Result<()> {
        let zeros = [0; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let piece = left.min(zeros.len() as u64);
            self.writer.write_all(&zeros[..piece as usize]).await?;
            left -= piece;
        }
        self.writer.flush().await
    }

    /// Passes on what the test feeds, and notices the relay's going at once.
    async fn feed(&mut self) -> io::Result<bool> {
        let (feed, mut pieces) = Feed::new();
        // An error: the test has dropped the backend.
        self.shared.feeds.send(feed).map_err(|_| io::ErrorKind::BrokenPipe)?;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                more = self.fill() => match more? {
                    true => continue,
                    false => return Err(io::ErrorKind::ConnectionAborted.into()),
                },
            };
            match piece {
                Some(Piece::Data(data)) => self.chunk(&data).await?,
                Some(Piece::Break) => return Ok(false),
                None => {
                    self.write(b"0\r\n\r\n").await?;
                    return Ok(true);
                }
            }
        }
    }

    async fn tunnel(&mut self) -> io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.buffer);
            self.write(&bytes).await?;
            if !self.fill().await? {
                return self.writer.shutdown().await;
            }
        }
    }

    async fn until_closed(&mut self) -> io::Result<bool> {
        while self.fill().await? {}
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Reads the request's body, records it, and perhaps sends it back.
    async fn body(&mut self, index: usize, framing: Framing, onward: Onward) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.piece(index, length, onward).await?,
            Framing::Chunked => loop {
                let line = self.take_through(b"\r\n").await?;
                let size = String::from_utf8_lossy(&line);
                let size = u64::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    break;
                }
                self.piece(index, size, onward).await?;
                self.take_through(b"\r\n").await?;
            },
        }
        if matches!(framing, Framing::Chunked) {
            loop {
                let line = self.take_through(b"\r\n").await?;
                if line == b"\r\n" {
                    break;
                }
                let line = String::from_utf8_lossy(&line).into_owned();
                self.shared.requests.send_modify(|requests| requests[index].trailers.push_str(&line));
            }
        }
        self.shared.requests.send_modify(|requests| requests[index].ended = Some(Instant::now()));
        Ok(())
    }

    async fn piece(&mut self, index: usize, length: u64, onward: Onward) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.buffer.is_empty() && !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = left.min(self.buffer.len() as u64);
            let bytes: Vec<u8> = self.buffer.drain(..here as usize).collect();
            left -= here;
            self.shared.requests.send_modify(|requests| {
                let request = &mut requests[index];
                let room = KEPT.saturating_sub(request.body.len()).min(bytes.len());
                request.body.extend_from_slice(&bytes[..room]);
                request.length += here;
            });
            if let Onward::Echo = onward {
                self.chunk(&bytes).await?;
            }
        }
        Ok(())
    }

    async fn chunk(&mut self, data: &[u8]) -> io::Result<()> {
        self.writer.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
        self.writer.write_all(data).await?;
        self.write(b"\r\n").await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    async fn take_through(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|part| part == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// False once the relay has closed. Cancel-safe.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.reader.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Where a request's body goes besides the records.
#[derive(Clone, Copy)]
enum Onward {
    Nowhere,
    Echo,
}

fn framing(request: &Recorded) -> Framing {
    match (request.header("transfer-encoding"), request.header("content-length")) {
        (Some(coding), None) => {
            assert!(coding.eq_ignore_ascii_case("chunked"), "{}", request.head);
            Framing::Chunked
        }
        (None, length) => Framing::Length(length.map_or(0, |length| length.parse().unwrap())),
        (Some(_), Some(_)) => panic!("the relay sent both framings: {}", request.head),
    }
}
