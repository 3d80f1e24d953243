//! hyper's three kinds of server connection under one name.

use std::pin::Pin;

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::HttpService,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{io::ClientIo, room::InRoom};
use crate::{access::Logged, body::Body};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection that can be asked to finish what it has and close.
pub(super) trait Serving: Future<Output = hyper::Result<()>> {
    /// Whether the peer is told which of its requests are still answered.
    const SAYS_GOODBYE: bool;

    /// Answers what has begun, takes nothing new, and ends.
    fn finish(self: Pin<&mut Self>);
}

impl<S, H> Serving for http1::UpgradeableConnection<TokioIo<ClientIo<S>>, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: HttpService<Incoming, ResBody = Logged>,
    H::Error: Into<BoxError>,
{
    const SAYS_GOODBYE: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, H> Serving for http1::Connection<TokioIo<ClientIo<S>>, H>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: HttpService<Incoming, ResBody = Body>,
    H::Error: Into<BoxError>,
{
    const SAYS_GOODBYE: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, H> Serving for http2::Connection<TokioIo<ClientIo<S>>, H, TokioExecutor>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: HttpService<Incoming, ResBody = InRoom<Logged>>,
    H::Error: Into<BoxError>,
    H::Future: Send + 'static,
{
    const SAYS_GOODBYE: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
