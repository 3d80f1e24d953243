//! One client for HTTP/1.1 and HTTP/2, so that a case can be run with both.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Mutex, mpsc},
};

use super::{Relay, raw, within};

/// Stands where clients put what nobody else may know. No log line of any relay holds it: see [`Relay`]'s drop.
pub(crate) const CANARY: &str = "songbird-of-the-harness";

/// The HTTP version that a client speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A request body: whole, or fed from a channel.
pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A client of one relay. HTTP/1.1 opens a connection for each request, HTTP/2 shares one.
pub(crate) struct Client {
    version: Version,
    address: SocketAddr,
    authority: String,
    /// Where it connects from; `None`: the system chooses.
    source: Option<IpAddr>,
    /// `None`: plain HTTP.
    tls: Option<Arc<ClientConfig>>,
    shared: Mutex<Option<http2::SendRequest<Body>>>,
}

/// A response read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A request that is being put together.
pub(crate) struct Call<'a> {
    client: &'a Client,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Body,
}

impl Client {
    /// Over TLS, to the HTTPS listener of a relay with a local CA.
    pub(crate) fn https(relay: &Relay, version: Version) -> Self {
        Self::https_at(relay, version, relay.https())
    }

    /// The same, at another of its addresses.
    pub(crate) fn https_at(relay: &Relay, version: Version, address: SocketAddr) -> Self {
        let alpn = match version {
            Version::Http1 => "http/1.1",
            Version::Http2 => "h2",
        };
        Self {
            version,
            address,
            authority: relay.authority(),
            source: None,
            tls: Some(relay.tls_client(&[alpn])),
            shared: Mutex::new(None),
        }
    }

    /// Plain HTTP/1.1.
    pub(crate) fn http(address: SocketAddr) -> Self {
        Self {
            version: Version::Http1,
            address,
            authority: format!("localhost:{}", address.port()),
            source: None,
            tls: None,
            shared: Mutex::new(None),
        }
    }

    /// Plain HTTP/1.1, from one of this machine's addresses.
    pub(crate) fn http_from(source: IpAddr, address: SocketAddr) -> Self {
        Self { source: Some(source), ..Self::http(address) }
    }

    pub(crate) fn call(&self, method: &str, target: &str) -> Call<'_> {
        Call {
            client: self,
            method: method.parse().unwrap(),
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Full::default().boxed(),
        }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.call("GET", target).send().await
    }

    /// A GET that is asked again on another connection where the relay says that it was not processed: over HTTP/2 its
    /// number is beyond the last one of a GOAWAY (RFC 9113, section 6.8), and browsers ask again too.
    pub(crate) async fn persistently(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> hyper::Result<Response<Incoming>> {
        loop {
            let mut call = self.call("GET", target);
            for (name, value) in headers {
                call = call.header(name, value);
            }
            match call.try_open().await {
                Err(error) if format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)") => {
                    tokio::task::yield_now().await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn send(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self.version {
            Version::Http1 => {
                let stream = self.connect().await;
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
            Version::Http2 => self.send_shared(request).await,
        }
    }

    /// On the shared connection; on a new one once that takes no more, as browsers do after a GOAWAY.
    async fn send_shared(&self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        loop {
            let mut shared = self.shared.lock().await;
            let mut sender = match shared.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => {
                    let stream = TokioIo::new(self.connect().await);
                    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                        .adaptive_window(true)
                        .handshake(stream)
                        .await?;
                    tokio::spawn(connection);
                    shared.insert(sender).clone()
                }
            };
            drop(shared);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    // It was not sent.
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error()),
                },
            }
            tokio::task::yield_now().await;
        }
    }

    async fn connect(&self) -> Box<dyn raw::Stream> {
        match &self.tls {
            None => Box::new(self.dial().await.unwrap()),
            Some(config) => Box::new(
                raw::handshake(self.address, Arc::clone(config), "localhost")
                    .await
                    .expect("the relay completes the handshake"),
            ),
        }
    }
}

impl Client {
    async fn dial(&self) -> std::io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect(self.address).await };
        let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((source, 0).into())?;
        socket.connect(self.address).await
    }
}

impl Call<'_> {
    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// Adds a header whose value is not all ASCII.
    pub(crate) fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    /// A whole body, with its length.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Full::new(body.into()).boxed();
        self
    }

    /// A body without a length, fed through the sender; it ends when the sender is dropped.
    pub(crate) fn streamed(mut self) -> (Self, mpsc::Sender<Bytes>) {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        self.body = Fed(receiver).boxed();
        (self, sender)
    }

    /// Sends it and reads the whole response.
    pub(crate) async fn send(self) -> Answer {
        let what = format!("the response to {} {}", self.method, self.target);
        within(&what, async {
            let response = self.open().await;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("the response ends cleanly").to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        })
        .await
    }

    /// Sends it and gives the response as soon as its head is there.
    pub(crate) async fn open(self) -> Response<Incoming> {
        let what = format!("{} {}", self.method, self.target);
        self.try_open().await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }

    /// The same, where the exchange may fail.
    pub(crate) async fn try_open(self) -> hyper::Result<Response<Incoming>> {
        let client = self.client;
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        for (name, secret) in [
            (header::AUTHORIZATION, format!("Bearer {CANARY}")),
            (header::COOKIE, format!("session={CANARY}")),
            (header::REFERER, format!("https://localhost/?token={CANARY}")),
        ] {
            request.headers_mut().entry(name).or_insert_with(|| HeaderValue::try_from(secret).unwrap());
        }
        match client.version {
            Version::Http1 => {
                *request.uri_mut() = self.target.parse().unwrap();
                let host = HeaderValue::from_str(&client.authority).unwrap();
                request.headers_mut().entry(header::HOST).or_insert(host);
            }
            Version::Http2 => {
                let target = self.target;
                *request.uri_mut() = Uri::builder()
                    .scheme("https")
                    .authority(client.authority.as_str())
                    .path_and_query(target)
                    .build()
                    .unwrap();
            }
        }
        within("the response's head", client.send(request)).await
    }
}

impl Answer {
    /// A header's only value; fails where there are two.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next();
        assert!(values.next().is_none(), "{name} came twice: {:?}", self.headers);
        first.map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Fails unless it is this status and this JSON error.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, message: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(self.text(), format!("{{\"error\":\"{message}\"}}"));
    }
}

/// The next chunk of a response body that is not empty; `None` at its clean end.
pub(crate) async fn next_chunk(body: &mut Incoming) -> Option<Bytes> {
    within("the next chunk", async {
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    // The last frame of an HTTP/2 body may carry nothing but its end.
                    if let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) {
                        return Some(data);
                    }
                }
                Err(error) => panic!("the response broke off: {error:?}"),
            }
        }
    })
    .await
}

/// Reads to the end and counts; an error when the response was broken off.
pub(crate) async fn count(body: &mut Incoming) -> Result<u64, (u64, hyper::Error)> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => length += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => return Err((length, error)),
        }
    }
    Ok(length)
}

/// A request body that a test feeds piece by piece.
struct Fed(mpsc::Receiver<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
