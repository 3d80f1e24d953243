//! HTTP/2 by hand: a client that sends exactly the frames that a test wants, and no window that it was not told to.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{Relay, raw, within};

/// Frame types (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The setting of how much each stream may send at first.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
/// What a connection, and by default a stream, may send at first.
pub(crate) const WINDOW: u32 = 65_535;

/// A connection on which the test writes frames by hand.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    authority: String,
    /// Read, and not yet taken.
    buffer: VecDeque<u8>,
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether it ends its stream.
    pub(crate) fn ends(&self) -> bool {
        (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0
    }
}

impl Frames {
    /// A connection to the HTTPS listener that begins with `settings`.
    pub(crate) async fn open(relay: &Relay, settings: &[(u16, u32)]) -> Self {
        let stream = raw::handshake(relay.https(), relay.tls_client(&["h2"]), "localhost").await.unwrap();
        let mut frames = Self { stream, authority: relay.authority(), buffer: VecDeque::new() };
        frames.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let payload = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect::<Vec<_>>();
        assert!(frames.send(SETTINGS, 0, 0, &payload).await);
        frames
    }

    /// Asks for `path` on a new stream.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        assert!(self.ask(stream, "GET", path.as_bytes()).await, "the relay has closed");
    }

    /// A request without a body on a new stream; false once the relay has closed.
    pub(crate) async fn ask(&mut self, stream: u32, method: &str, path: &[u8]) -> bool {
        // RFC 7541, appendix A: `:scheme: https` is an entry of the static table, the names of `:authority`,
        // `:method` and `:path` are its first, second and fourth.
        let mut block = vec![0x87];
        for (name, value) in [(0x01, self.authority.as_bytes()), (0x02, method.as_bytes()), (0x04, path)] {
            block.push(name);
            // RFC 7541, 5.1: an integer with a prefix of seven bits.
            match u8::try_from(value.len()) {
                Ok(length @ 0..127) => block.push(length),
                _ => {
                    let mut left = value.len() - 127;
                    block.push(127);
                    while left >= 128 {
                        block.push((left % 128) as u8 | 128);
                        left /= 128;
                    }
                    block.push(left as u8);
                }
            }
            block.extend(value);
        }
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block).await
    }

    /// Asks for a sign of life; false once the relay has closed.
    pub(crate) async fn ping(&mut self) -> bool {
        self.send(PING, 0, 0, b"are you?").await
    }

    /// Lets the relay send `more` bytes on a stream, or with 0 on the connection; false once it has closed.
    pub(crate) async fn window(&mut self, stream: u32, more: u32) -> bool {
        self.send(WINDOW_UPDATE, 0, stream, &more.to_be_bytes()).await
    }

    /// The next frame; `None` once the relay has closed. Settings and pings are acknowledged on the way. A call
    /// that is given up loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if (frame.kind == SETTINGS || frame.kind == PING) && frame.flags & ACK == 0 {
                let echoed = if frame.kind == PING { &*frame.payload } else { &[] };
                self.send(frame.kind, ACK, 0, echoed).await;
            }
            if frame.kind != SETTINGS {
                return Some(frame);
            }
        }
    }

    /// Reads until the relay closes.
    pub(crate) async fn until_closed(&mut self) {
        within("the relay to close", async { while self.next().await.is_some() {} }).await;
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 9 {
                let head: Vec<u8> = self.buffer.iter().take(9).copied().collect();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind: head[3], flags: head[4], payload });
                }
            }
            let mut piece = [0; 16 * 1024];
            let read = self.stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
            self.buffer.extend(&piece[..read]);
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.is_ok() && self.stream.flush().await.is_ok()
    }
}
