//! A plain HTTP/1.1 connection that is kept for as long as the other side keeps it, for thousands of requests.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{raw, within};

/// The connection, opened when it is needed.
pub(crate) struct Kept {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Kept {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request, piece by piece, and reads its response: status and body.
    pub(crate) async fn exchange<P: AsRef<[u8]>>(&mut self, pieces: &[P]) -> (u16, Vec<u8>) {
        let what = String::from_utf8_lossy(pieces[0].as_ref()).into_owned();
        within(&what, async {
            loop {
                let is_new = self.stream.is_none();
                match self.try_exchange(pieces).await {
                    Some(answer) => return answer,
                    // It was closed when the request was sent.
                    None => assert!(!is_new, "no whole answer to {what}"),
                }
            }
        })
        .await
    }

    async fn try_exchange<P: AsRef<[u8]>>(&mut self, pieces: &[P]) -> Option<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                stream
            }
        };
        for piece in pieces {
            // An error: it was closed, perhaps after an answer.
            if stream.write_all(piece.as_ref()).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let end = loop {
            if let Some(at) = answer.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let length = raw::header(&head, "content-length").map(|length| length.parse::<usize>().unwrap());
        while length.is_none_or(|length| answer.len() < end + length) {
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let closes =
            raw::header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if length.is_some() && !closes {
            self.stream = Some(stream);
        }
        Some((raw::status(&head), answer.split_off(end)))
    }
}
