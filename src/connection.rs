//! One client connection: PROXY protocol, TLS within its deadline, then HTTP until it ends or is drained.

mod frames;
mod http1;
mod http2;
pub(crate) mod io;
mod paced;
mod proxy_protocol;
mod reading;
mod room;
mod serving;
mod wait;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, uri::Scheme};
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use self::reading::Heads;
use self::{
    io::{ClientIo, Framing},
    paced::Paced,
    room::{Portion, Room},
    serving::Serving,
};
use crate::{
    access::Logged,
    admission::{Clients, Place},
    body::Body,
    client::Connection,
    handler,
    in_flight::Requests,
    least_rate::LeastRate,
    metrics::Metrics,
    redirect,
    site::Sites,
    tcp,
    tls::{challenges::ACME_TLS, names::Names},
};

/// What a listener is for.
#[derive(Clone)]
pub(crate) enum Purpose {
    Https {
        acceptor: TlsAcceptor,
        names: Names,
    },
    Http,
    /// Port 80: everything is sent to `https_port`.
    Redirect {
        names: Names,
        https_port: u16,
    },
}

impl Purpose {
    /// As the log has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Https { .. } => "https",
            Self::Http => "http",
            Self::Redirect { .. } => "redirect",
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How connections of a listener are served.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) purpose: Purpose,
    pub(crate) sites: Sites,
    pub(crate) limits: Limits,
    /// From accept to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// Whether trusted peers begin with a PROXY header.
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) clients: Clients,
    /// How many connections one of them may have.
    pub(crate) per_client: usize,
    pub(crate) metrics: Arc<Metrics>,
}

/// How long things may take, and how large they may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Of requests.
    pub(crate) heads: Heads,
    /// How a response is to be taken.
    pub(crate) rate: LeastRate,
    /// The longest pause of the backend that it comes from.
    pub(crate) source: Duration,
}

/// Whether trusted peers speak the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProxyProtocol {
    Off,
    FromTrusted,
}

/// Why a connection ended before its first request.
#[derive(Debug)]
pub(crate) enum ConnectionError {
    Io(std::io::Error),
    /// Not in time.
    Handshake,
    /// A trusted peer did not begin with a PROXY header.
    ProxyHeader,
    /// Its client has as many as it may have.
    TooMany,
}

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Handshake => f.write_str("no handshake in time"),
            Self::ProxyHeader => f.write_str("a trusted peer sent no valid PROXY header"),
            Self::TooMany => f.write_str("its client has too many"),
        }
    }
}

impl Service {
    /// Serves one connection to its end. `drain` asks it to finish what it has and close.
    pub(crate) async fn serve(&self, stream: TcpStream, peer: SocketAddr, drain: CancellationToken) {
        if let Err(error) = self.serve_until_end(stream, peer, drain).await {
            tracing::debug!(client = %peer.ip(), %error, "connection ended");
        }
    }

    async fn serve_until_end(
        &self,
        mut stream: TcpStream,
        mut peer: SocketAddr,
        drain: CancellationToken,
    ) -> Result<(), ConnectionError> {
        self.metrics.connections.accepted.add();
        let handshake = self.metrics.connections.handshake.count();
        tcp::prepare(&stream).map_err(ConnectionError::Io)?;
        let deadline = Instant::now() + self.handshake;
        let local = stream.local_addr().map_err(ConnectionError::Io)?;
        let requests = Requests::new();
        let in_time = async {
            if self.proxy_protocol == ProxyProtocol::FromTrusted
                && self.sites.current().trust.believes(peer.ip())
            {
                peer = proxy_protocol::read(&mut stream).await?.unwrap_or(peer);
            }
            let place = self.admit(&stream, peer.ip())?;
            Ok((self.open(stream, &requests).await?, place))
        };
        let (opened, place) =
            tokio::time::timeout_at(deadline, in_time).await.map_err(|_| ConnectionError::Handshake)??;
        drop(handshake);
        match (opened, &self.purpose) {
            // A CA has seen the certificate it came for (RFC 8737, section 3): nothing is spoken on this protocol.
            (Opened::Tls(tls), _) if tls.get_ref().1.alpn_protocol() == Some(ACME_TLS) => {}
            (Opened::Tls(tls), _) => {
                let scheme = Scheme::HTTPS;
                let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                if is_h2 {
                    let connection = self.connection(peer, scheme, requests.with_windows());
                    // A trusted proxy's connections are those of many clients.
                    let portion = place.as_ref().map_or(Portion::WHOLE, Portion::of);
                    // Boxed: it takes twice what HTTP/1.1 does, and a task has room for the larger.
                    Box::pin(self.http2(tls, connection, portion, drain)).await
                } else {
                    self.http1(tls, self.connection(peer, scheme, requests), drain).await
                }
            }
            (Opened::Plain(stream), Purpose::Http) => {
                self.http1(stream, self.connection(peer, Scheme::HTTP, requests), drain).await;
            }
            (Opened::Plain(stream), Purpose::Redirect { names, https_port }) => {
                self.redirect(stream, requests, (names, *https_port), drain).await;
            }
            (Opened::Plain(stream), Purpose::Https { names, .. }) => {
                // Plain HTTP on the TLS port: the client is told where HTTPS is, on this very port.
                self.redirect(stream, requests, (names, local.port()), drain).await;
            }
        }
        Ok(())
    }

    /// A place among the client's connections; `None`: a trusted proxy, which has those of many.
    fn admit(&self, stream: &TcpStream, client: IpAddr) -> Result<Option<Place>, ConnectionError> {
        if self.sites.current().trust.believes(client) {
            return Ok(None);
        }
        let place = self.clients.admit(client, self.per_client);
        if place.is_none() {
            self.metrics.connections.refused.add();
            // SECURITY: a reset. Closed otherwise, each would live on in the kernel for a minute.
            stream.set_zero_linger().map_err(ConnectionError::Io)?;
            return Err(ConnectionError::TooMany);
        }
        Ok(place)
    }

    /// Up to the end of the handshake, where there is one.
    async fn open(&self, stream: TcpStream, requests: &Requests) -> Result<Opened, ConnectionError> {
        let paced = |stream| Paced::new(stream, requests.clone(), self.limits.rate);
        let Purpose::Https { acceptor, .. } = &self.purpose else {
            return Ok(Opened::Plain(paced(stream)));
        };
        if speaks_http(&stream).await.map_err(ConnectionError::Io)? {
            return Ok(Opened::Plain(paced(stream)));
        }
        let tls = acceptor.accept(paced(stream)).await.map_err(ConnectionError::Io)?;
        Ok(Opened::Tls(Box::new(tls)))
    }

    fn connection(&self, peer: SocketAddr, scheme: Scheme, requests: Requests) -> Arc<Connection> {
        let names = match &self.purpose {
            Purpose::Https { names, .. } => Some(names.clone()),
            Purpose::Http | Purpose::Redirect { .. } => None,
        };
        let (metrics, bounds) = (Arc::clone(&self.metrics), self.limits.heads.bounds);
        Arc::new(Connection { peer, scheme, requests, metrics, bounds, names })
    }

    async fn http1<S>(&self, stream: S, connection: Arc<Connection>, drain: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let counted = self.metrics.connections.http1.count();
        let requests = connection.requests.clone();
        let io = self.io(stream, &requests, Framing::Heads(self.limits.heads));
        let serving = http1::builder(self.limits.heads.bounds)
            .serve_connection(io, self.handler(connection))
            .with_upgrades();
        self.until_end(serving, &requests, drain).await;
        drop(counted);
        // SECURITY: to hyper the connection ends when it becomes a tunnel. It is open all the same, and counts among
        // its client's and among all until the tunnel ends.
        if requests.is_tunnel() {
            requests.answered().await;
        }
    }

    async fn http2<S>(
        &self,
        stream: S,
        connection: Arc<Connection>,
        portion: Portion,
        drain: CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _counted = self.metrics.connections.http2.count();
        let requests = connection.requests.clone();
        let io = self.io(stream, &requests, Framing::Frames { within: self.limits.heads.within });
        let builder = http2::builder(self.limits.heads.bounds.head, requests.clone(), portion);
        let (handler, room) = (self.handler(connection), Room::new(portion));
        let service = service_fn(move |request| {
            let (answer, room) = (handler.call(request), room.clone());
            async move { answer.await.map(|response| room.response(response)) }
        });
        self.until_end(builder.serve_connection(io, service), &requests, drain).await;
    }

    async fn redirect(
        &self,
        stream: Paced<TcpStream>,
        requests: Requests,
        (names, https_port): (&Names, u16),
        drain: CancellationToken,
    ) {
        let _counted = self.metrics.connections.redirect.count();
        let io = self.io(stream, &requests, Framing::Heads(self.limits.heads));
        let answer = service_fn(|request: Request<Incoming>| {
            let _in_flight = requests.begin();
            let (parts, _) = request.into_parts();
            let response = match requests.refused() {
                Some(fault) => redirect::refusal(fault),
                None => redirect::answer(names, https_port, &parts),
            };
            self.metrics.requests.begin().answered(response.status());
            async move { Ok::<Response<Body>, Infallible>(response) }
        });
        self.until_end(
            http1::builder(self.limits.heads.bounds).serve_connection(io, answer),
            &requests,
            drain,
        )
        .await;
    }

    fn io<S>(&self, stream: S, requests: &Requests, framing: Framing) -> TokioIo<ClientIo<S>> {
        TokioIo::new(ClientIo::new(stream, requests.clone(), framing))
    }

    /// Serves to the end: the client's, that of the drain or of the port, that of an idle connection, or that of a
    /// client that takes nothing of what it asked for.
    async fn until_end(&self, serving: impl Serving, requests: &Requests, drain: CancellationToken) {
        let Limits { idle, rate, source, .. } = self.limits;
        let write = rate.pause;
        let mut serving = pin!(serving);
        loop {
            let look = match requests.idle_since() {
                // Nothing wakes us when a request begins, and one may stall until then.
                Some(since) => (since + idle).min(Instant::now() + write),
                // Nor when the last one ends; bodies are looked at four times in their limit.
                None => Instant::now() + idle.min(write / 4),
            };
            tokio::select! {
                ended = &mut serving => return serving::log_end(ended),
                () = drain.cancelled() => break,
                () = tokio::time::sleep_until(look) => {}
            }
            if requests.idle_since().is_some_and(|since| since.elapsed() >= idle) {
                break;
            }
            if requests.give_up_stalled(source) {
                return serving::leave(serving).await;
            }
        }
        if drain.is_cancelled()
            && let Some(ended) = serving::last_request(serving.as_mut(), requests).await
        {
            return serving::log_end(ended);
        }
        serving.as_mut().finish();
        // The client may still be taking the rest of its last response, and others before: a drain has a limit that
        // the relay keeps, and a port that a reload closed has none.
        let finished = Instant::now();
        let until = || requests.idle_since().map(|since| finished.max(since + idle) + write);
        loop {
            let look = Instant::now() + write / 4;
            tokio::select! {
                ended = &mut serving => return serving::log_end(ended),
                () = tokio::time::sleep_until(until().map_or(look, |until| until.min(look))) => {}
            }
            if until().is_some_and(|until| until <= Instant::now()) {
                return;
            }
            if requests.give_up_stalled(source) {
                return serving::leave(serving).await;
            }
        }
    }

    fn handler(
        &self,
        connection: Arc<Connection>,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = Response<Logged>,
        Error = Infallible,
        Future: Send,
    > + use<> {
        let sites = self.sites.clone();
        service_fn(move |request| {
            let (site, connection) = (sites.current(), Arc::clone(&connection));
            // Boxed: hyper keeps room for this future as long as the connection stands, and it is the largest
            // part of it (measured: 6 KB of an idle connection).
            Box::pin(async move { Ok(handler::handle(&site, &connection, request).await) })
        })
    }
}

/// A connection that HTTP is spoken on.
enum Opened {
    Plain(Paced<TcpStream>),
    Tls(Box<tokio_rustls::server::TlsStream<Paced<TcpStream>>>),
}

/// Whether a client on the TLS port begins with a letter, as a method does and no TLS record.
async fn speaks_http(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase())
}
