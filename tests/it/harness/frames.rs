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
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// RFC 9218 7.1; to a server that knows nothing of it, an unknown type.
pub(crate) const PRIORITY_UPDATE: u8 = 16;

/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

/// The setting of how much each stream may send at first.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
/// What a connection, and by default a stream, may send at first.
pub(crate) const WINDOW: u32 = 65_535;

/// RFC 9113 3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection on which the test writes frames by hand.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    authority: String,
    /// Read, and not yet taken.
    buffer: VecDeque<u8>,
    /// The relay's window of a stream, as its settings have it.
    stream_window: u32,
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether it ends its stream.
    pub(crate) fn ends(&self) -> bool {
        (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of RST_STREAM or GOAWAY (RFC 9113, section 7).
    pub(crate) fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// How much more WINDOW_UPDATE lets us send.
    pub(crate) fn window(&self) -> Option<u32> {
        (self.kind == WINDOW_UPDATE).then(|| u32::from_be_bytes(self.payload[..].try_into().unwrap()))
    }

    /// The status at the start of a response's header block.
    pub(crate) fn status(&self) -> u16 {
        // RFC 7541: entries 8 to 14 of the static table, or entry 8 with another value.
        match self.payload[..] {
            [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            [0x08 | 0x18 | 0x48, 3, ref value @ ..] => digits(value.iter().map(|byte| byte - b'0')),
            [0x08 | 0x18 | 0x48, length @ 0x80..=0xff, ref value @ ..] => {
                digits(huffman_digits(&value[..usize::from(length & 0x7f)]))
            }
            ref other => panic!("a header block without a status: {other:?}"),
        }
    }
}

fn digits(digits: impl Iterator<Item = u8>) -> u16 {
    digits.take(3).fold(0, |number, digit| number * 10 + u16::from(digit))
}

/// RFC 7541, appendix B: 0, 1 and 2 are five bits of their own value, 3 to 9 six from 011001 on.
fn huffman_digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * bytes.len());
    let mut at = 0;
    std::iter::from_fn(move || {
        let short = u8::try_from(bits << at >> 59).unwrap();
        let long = u8::try_from(bits << at >> 58).unwrap();
        let (digit, length) = if short < 3 { (short, 5) } else { (long - 0b01_1001 + 3, 6) };
        at += length;
        Some(digit)
    })
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The fields of a header block, each literally and not to be remembered (RFC 7541 6.2.2).
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(name.as_ref(), &mut block);
        string(value.as_ref(), &mut block);
    }
    block
}

/// RFC 7541 5.1 and 5.2: a length with a prefix of seven bits, and what it is the length of.
fn string(text: &[u8], block: &mut Vec<u8>) {
    if let Some(length) = u8::try_from(text.len()).ok().filter(|length| *length < 127) {
        block.push(length);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(0x80 | u8::try_from(rest % 128).unwrap());
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend(text);
}

/// The payload of SETTINGS.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect()
}

impl Frames {
    /// A connection to the HTTPS listener that begins with `settings`.
    pub(crate) async fn open(relay: &Relay, with: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(relay).await;
        assert!(frames.write(PREFACE).await && frames.send(SETTINGS, 0, 0, &settings(with)).await);
        frames
    }

    /// A connection on which nothing has been said yet.
    pub(crate) async fn silent(relay: &Relay) -> Self {
        let stream = raw::handshake(relay.https(), relay.tls_client(&["h2"]), "localhost").await.unwrap();
        Self { stream, authority: relay.authority(), buffer: VecDeque::new(), stream_window: WINDOW }
    }

    /// Ends the connection with a reset, which leaves nothing behind.
    pub(crate) fn reset_when_dropped(&self) {
        self.stream.get_ref().0.set_zero_linger().unwrap();
    }

    /// Asks for `path` on a new stream.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        assert!(self.ask(stream, "GET", path).await, "the relay has closed");
    }

    /// A request without a body on a new stream; false once the relay has closed.
    pub(crate) async fn ask(&mut self, stream: u32, method: &str, path: &str) -> bool {
        let request = self.request(method, path);
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &request).await
    }

    /// The header block of a request.
    pub(crate) fn request(&self, method: &str, path: &str) -> Vec<u8> {
        block(&[(":method", method), (":scheme", "https"), (":authority", &self.authority), (":path", path)])
    }

    /// Asks for a sign of life; false once the relay has closed.
    pub(crate) async fn ping(&mut self) -> bool {
        self.send(PING, 0, 0, b"are you?").await
    }

    /// Waits until the relay's settings hold; gives its windows of the connection and of a stream.
    pub(crate) async fn settled(&mut self) -> (u64, u64) {
        assert!(self.ping().await, "the relay has closed");
        let mut window = u64::from(WINDOW);
        within("PING", async {
            loop {
                let frame = self.next().await.expect("the connection goes on");
                window += frame.window().map_or(0, u64::from);
                if frame.kind == PING {
                    return (window, u64::from(self.stream_window));
                }
            }
        })
        .await
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
            for setting in frame.payload.chunks(6) {
                if let [0, 4, value @ ..] = setting {
                    self.stream_window = u32::from_be_bytes(value.try_into().unwrap());
                }
            }
        }
    }

    /// Reads until the relay closes.
    pub(crate) async fn until_closed(&mut self) {
        within("the relay to close", async { while self.next().await.is_some() {} }).await;
    }

    /// The next frame as it comes: nothing is acknowledged.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 9 {
                let head: Vec<u8> = self.buffer.iter().take(9).copied().collect();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                }
            }
            let mut piece = [0; 16 * 1024];
            let read = self.stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
            self.buffer.extend(&piece[..read]);
        }
    }

    /// Sends a frame; false once the relay has closed.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// Sends bytes that may be frames; false once the relay has closed.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }
}
