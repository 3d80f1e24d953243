//! A socket that sends exactly the bytes it is given.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Relay, within};

/// Plain or TLS, as far as a reader and writer can tell.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to the relay on which the test writes bytes by hand.
pub(crate) struct Raw {
    stream: Box<dyn Stream>,
    /// Read, and not yet taken.
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct RawResponse {
    /// Up to and with the blank line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// A plain TCP connection.
    pub(crate) async fn plain(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// Whether a connection there ends at once and without a word; the reset may come before it stands.
    pub(crate) async fn is_refused(address: SocketAddr) -> bool {
        match TcpStream::connect(address).await {
            Ok(stream) => Self::over(stream).read_to_end().await.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// A TLS connection to the relay's HTTPS listener that speaks HTTP/1.1.
    pub(crate) async fn tls(relay: &Relay) -> Self {
        let config = relay.tls_client(&["http/1.1"]);
        Self::over(handshake(relay.https(), config, "localhost").await.unwrap())
    }

    /// On a stream that stands already.
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Writes what the peer will take; false once it has closed.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Reads up to and with the first `end`.
    pub(crate) async fn read_until(&mut self, end: &str) -> Vec<u8> {
        within(&format!("{end:?}"), async {
            loop {
                let found = self.buffer.windows(end.len()).position(|part| part == end.as_bytes());
                if let Some(at) = found {
                    return self.buffer.drain(..at + end.len()).collect();
                }
                assert!(
                    self.fill().await,
                    "closed before {end:?}, after {:?}",
                    String::from_utf8_lossy(&self.buffer)
                );
            }
        })
        .await
    }

    /// Reads a response's head.
    pub(crate) async fn read_head(&mut self) -> String {
        String::from_utf8(self.read_until("\r\n\r\n").await).unwrap()
    }

    /// Reads `length` bytes.
    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        within("bytes", async {
            while self.buffer.len() < length {
                assert!(self.fill().await, "closed after {} of {length} bytes", self.buffer.len());
            }
        })
        .await;
        self.buffer.drain(..length).collect()
    }

    /// Reads a response whose body has a length, or none.
    pub(crate) async fn read_response(&mut self) -> RawResponse {
        let head = self.read_head().await;
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = self.read(length).await;
        RawResponse { head, body }
    }

    /// Reads until the peer closes.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        within("the connection to close", async { while self.fill().await {} }).await;
        std::mem::take(&mut self.buffer)
    }

    /// Closes the sending side.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// False once the peer has closed, in whatever way.
    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0)
    }
}

impl RawResponse {
    pub(crate) fn status(&self) -> u16 {
        status(&self.head)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// The status of a raw head.
pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The first value of a header in a raw head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A TLS connection that stands. A `name` that is an address is not sent as SNI.
pub(crate) async fn handshake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("the handshake", TlsConnector::from(config).connect(name, stream)).await
}
