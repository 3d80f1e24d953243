//! hyper's three kinds of server connection under one name.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{frames::FAREWELL, http2::Streams, io::ClientIo, room::InRoom};
use crate::{access::Logged, body::Body, error::BodyError, in_flight::Requests};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an idle HTTP/1 connection is kept when the relay ends: a request may be under way on it.
const LAST_REQUEST: Duration = Duration::from_secs(1);

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

impl<S, H> Serving for http2::Connection<TokioIo<ClientIo<S>>, H, Streams>
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

/// Waits a moment for a request on an HTTP/1 connection that has none, whose response then says that it is the
/// last; gives the connection's end, if that comes first. HTTP/2 has GOAWAY to say which requests are still
/// answered; HTTP/1 has nothing, and a request that crosses our close is lost (RFC 9112, section 9.5).
pub(super) async fn last_request<S: Serving>(
    mut serving: Pin<&mut S>,
    requests: &Requests,
) -> Option<hyper::Result<()>> {
    if S::SAYS_GOODBYE {
        return None;
    }
    requests.close();
    let next = poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if requests.any() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    tokio::time::timeout(LAST_REQUEST, next).await.ok().flatten()
}

/// Ends the connection of a client that takes nothing: it is told, and what it holds goes at once.
pub(super) async fn leave(mut serving: Pin<&mut impl Serving>) {
    tracing::debug!("connection ended: the client takes nothing");
    serving.as_mut().finish();
    if let Ok(ended) = tokio::time::timeout(FAREWELL, serving).await {
        log_end(ended);
    }
}

/// The handler answers every error that a request can have; what is left is the connection's own end, and
/// that is the client's business.
pub(super) fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        let of_body = std::error::Error::source(&error).is_some_and(|source| source.is::<BodyError>());
        if !of_body {
            tracing::debug!(error = %crate::error::Chain(&error), "connection ended");
        }
    }
}
