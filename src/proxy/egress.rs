//! A connection to an origin: direct or through a proxy, then TLS if the origin wants it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{
    HeaderValue, Uri,
    uri::{Authority, Scheme},
};
use hyper_util::{
    client::legacy::connect::proxy::{SocksV5, Tunnel},
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tower_service::Service;

use super::identity::Source;
use crate::{
    config::{BackendUrl, Credentials, ProxyScheme, ProxyUrl},
    error::ConnectError,
    tcp,
};

/// A connection that HTTP can be spoken on.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// How requests are written on connections of one way.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// `GET /path`: the origin itself listens.
    Origin,
    /// `GET http://origin/path`: an HTTP proxy listens, and may want to know who asks.
    Absolute { authorization: Option<HeaderValue> },
}

/// The way to one origin.
pub(crate) struct Egress {
    origin: Authority,
    /// The origin's address where it is on this machine.
    loopback: Option<SocketAddrV4>,
    through: Option<ProxyUrl>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limit: Duration,
}

impl Egress {
    /// `roots` are what an `https://` origin is verified against; `limit` bounds the whole way, TLS included.
    pub(crate) fn new(
        origin: &BackendUrl,
        through: Option<ProxyUrl>,
        roots: &Arc<RootCertStore>,
        limit: Duration,
    ) -> Result<Self, rustls::pki_types::InvalidDnsNameError> {
        let tls = if origin.scheme == Scheme::HTTPS {
            let host = origin.authority.host().trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned())?;
            let mut config =
                ClientConfig::builder().with_root_certificates(Arc::clone(roots)).with_no_client_auth();
            // The pool speaks HTTP/1.1; a server that is offered nothing may choose otherwise.
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self { loopback: origin.loopback(), origin: origin.authority.clone(), through, tls, limit })
    }

    /// How requests are to be written on this way's connections.
    pub(crate) fn form(&self) -> Form {
        match &self.through {
            Some(proxy) if proxy.scheme == ProxyScheme::Http && self.tls.is_none() => {
                Form::Absolute { authorization: proxy.credentials.as_ref().map(basic) }
            }
            _ => Form::Origin,
        }
    }

    /// A new connection, within the limit; from `source` where that is given and the way is direct.
    pub(crate) async fn connect(&self, source: Source) -> Result<Stream, ConnectError> {
        tokio::time::timeout(self.limit, self.connect_unbounded(source))
            .await
            .unwrap_or(Err(ConnectError::Timeout))
    }

    async fn connect_unbounded(&self, source: Source) -> Result<Stream, ConnectError> {
        let tcp = match &self.through {
            None => match (source, self.loopback) {
                (Some(source), Some(origin)) => dial_from(source, origin).await?,
                (Some(_), None) | (None, _) => dial(&self.origin).await.map_err(ConnectError::Io)?,
            },
            Some(proxy) => self
                .through(proxy)
                .await
                .map_err(|error| ConnectError::Proxy(proxy.authority.clone(), error))?,
        };
        let Some((connector, name)) = &self.tls else {
            return Ok(Either::Left(tcp));
        };
        let tls = connector.connect(name.clone(), tcp).await.map_err(ConnectError::Io)?;
        Ok(Either::Right(Box::new(tls)))
    }

    async fn through(&self, proxy: &ProxyUrl) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
        let proxy_uri = origin_uri(&proxy.authority);
        let origin = origin_uri(&self.origin);
        match proxy.scheme {
            ProxyScheme::Http if self.tls.is_none() => Ok(dial(&proxy.authority).await?),
            ProxyScheme::Http => {
                let mut tunnel = Tunnel::new(proxy_uri, Dialer);
                if let Some(credentials) = &proxy.credentials {
                    tunnel = tunnel.with_auth(basic(credentials));
                }
                Ok(tunnel.call(origin).await?.into_inner())
            }
            ProxyScheme::Socks5 | ProxyScheme::Socks5h => {
                let mut socks =
                    SocksV5::new(proxy_uri, Dialer).local_dns(proxy.scheme == ProxyScheme::Socks5);
                if let Some(Credentials { user, password }) = &proxy.credentials {
                    socks = socks.with_auth(user.clone(), password.0.clone());
                }
                Ok(socks.call(origin).await?.into_inner())
            }
        }
    }
}

/// The web PKI's roots, built in: a static binary may run where there is no store.
pub(crate) fn web_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

async fn dial(to: &Authority) -> io::Result<TcpStream> {
    let host = to.host().trim_start_matches('[').trim_end_matches(']');
    // Every `Authority` of the config has its port written out.
    let port = to.port_u16().ok_or(io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host, port)).await?;
    tcp::prepare(&stream)?;
    Ok(stream)
}

/// Connects from an address that stands for a client. The origin is a loopback address then.
async fn dial_from(source: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream, ConnectError> {
    let socket = TcpSocket::new_v4().map_err(ConnectError::Io)?;
    socket.bind(SocketAddr::from((source, 0))).map_err(not_bound)?;
    // From the first moment: a client that leaves while this connects must not leave the port behind either. The
    // `Socket` that this becomes sees to its end.
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).map_err(ConnectError::Io)?;
    let stream = socket.connect(to.into()).await.map_err(ConnectError::Io)?;
    tcp::prepare(&stream).map_err(ConnectError::Io)?;
    Ok(stream)
}

/// Why a source address was not bound. That its ports are all taken passes; the others show that none can be bound here.
fn not_bound(error: io::Error) -> ConnectError {
    if error.kind() == io::ErrorKind::AddrInUse {
        ConnectError::Io(error)
    } else {
        ConnectError::Source(error)
    }
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let encoded = BASE64.encode(format!("{}:{}", credentials.user, credentials.password.0));
    // Base64 is visible ASCII.
    let mut value =
        HeaderValue::try_from(format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// The form in which hyper-util's tunnels want an address.
fn origin_uri(authority: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    // Scheme, authority and path are all there: that is all that can be missing.
    Uri::from_parts(parts).unwrap_or_default()
}

/// What hyper-util's tunnels reach the proxy with.
#[derive(Clone)]
struct Dialer;

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
            dial(authority).await.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_of_a_source_are_no_reason_to_give_all_sources_up() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        assert!(matches!(not_bound(AddrInUse.into()), ConnectError::Io(_)));
        for kind in [AddrNotAvailable, PermissionDenied] {
            assert!(matches!(not_bound(kind.into()), ConnectError::Source(_)), "{kind:?}");
        }
    }
}
