//! One request to an origin until the head of its response: connections, deadlines, and what is tried again.
//!
//! What was certainly not sent is tried again, whatever it is; what may have been sent only if it is idempotent
//! and has no body (RFC 9110 9.2.2). Nothing else ever: a message must not appear twice.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::Instant;

use super::{
    health::Health,
    identity::Identity,
    pace::Pace,
    pool::{Age, Lease, Pool, Source},
    stream::Progress,
};
use crate::{
    body::Body,
    client::Client,
    error::{BodyError, ConnectError, RequestError},
};

/// The first pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How requests reach an origin.
pub(crate) struct Sender {
    pub(crate) pool: Pool,
    /// `None`: the backend sees the relay alone.
    pub(crate) identity: Option<Identity>,
    /// From the last byte of the request to the head of the response.
    pub(crate) response_within: Duration,
    pub(crate) health: Arc<Health>,
}

/// A response's head, and the connection that its body comes on.
pub(super) type Answer = (Response<Incoming>, Lease);

impl Sender {
    /// Sends a request for `client`. What can be tried again is, for `retry_for`.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        client: &Client,
        progress: &Progress,
        retry_for: Duration,
    ) -> Result<Answer, RequestError> {
        let give_up = Instant::now() + retry_for;
        let mut pace = Pace::new(PAUSES);
        loop {
            let error = match self.lease(client).await {
                Ok(lease) => match self.exchange(request, lease, progress).await {
                    Ok(answer) => {
                        self.health.answered();
                        return Ok(answer);
                    }
                    // The pooled connection was closed before anything was written: another will do, at once.
                    Err(Failed { again: Some(Again { request: unsent, pause: Pause::No }), .. }) => {
                        request = unsent;
                        continue;
                    }
                    Err(Failed { error, again: Some(Again { request: again, pause: Pause::Yes }) }) => {
                        request = again;
                        error
                    }
                    Err(Failed { error, again: None }) => return Err(error),
                },
                Err(error) => error,
            };
            if matches!(error, RequestError::Connect(_)) {
                self.health.refused(&error);
            } else if matches!(error, RequestError::Exchange(_)) {
                self.health.broke_off(&error);
            } else {
                // It waited for its turn as long as it may.
                return Err(error);
            }
            let next = Instant::now() + pace.next();
            if next >= give_up {
                return Err(error);
            }
            self.health.retried();
            tokio::time::sleep_until(next).await;
        }
    }

    /// A connection that stands for the client where that is possible.
    async fn lease(&self, client: &Client) -> Result<Lease, RequestError> {
        let source: Source = self.identity.as_ref().and_then(|identity| identity.source(client.address));
        match (self.pool.lease(source).await, &self.identity) {
            (Err(RequestError::Connect(ConnectError::Source(error))), Some(identity)) => {
                identity.refuse(&error);
                self.pool.lease(None).await
            }
            (leased, _) => leased,
        }
    }

    async fn exchange(
        &self,
        request: Request<Body>,
        mut lease: Lease,
        progress: &Progress,
    ) -> Result<Answer, Failed> {
        let copy = repeatable(&request);
        lease.forget_received();
        let sending = lease.sender().try_send_request(request);
        let failed = match self.in_time(progress, sending).await {
            None => {
                return Err(Failed { error: RequestError::ResponseTimeout, again: None });
            }
            Some(Ok(response)) => return Ok((response, lease)),
            Some(Err(failed)) => failed,
        };
        // With a byte of the response there, the backend has answered, whatever it was to be.
        let copy = copy.filter(|_| !lease.has_received());
        Err(Failed::of(failed, copy, lease.age()))
    }

    /// Bounds the wait for a response's head, counted from when the request last moved. What it waited for
    /// before, a connection or the backend's return, has bounds of its own.
    async fn in_time<T>(&self, progress: &Progress, sending: impl Future<Output = T>) -> Option<T> {
        let mut sending = std::pin::pin!(sending);
        let mut seen = progress.last().max(Instant::now());
        loop {
            match tokio::time::timeout_at(seen + self.response_within, &mut sending).await {
                Ok(outcome) => return Some(outcome),
                Err(_) if progress.last() > seen => seen = progress.last(),
                Err(_) => return None,
            }
        }
    }
}

/// A failed exchange, and the request if it may be sent again.
struct Failed {
    error: RequestError,
    again: Option<Again>,
}

struct Again {
    request: Request<Body>,
    pause: Pause,
}

/// Whether to wait before another try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    No,
    Yes,
}

impl Failed {
    fn of(mut failed: TrySendError<Request<Body>>, copy: Option<Request<Body>>, age: Age) -> Self {
        let pause = if age == Age::Reused { Pause::No } else { Pause::Yes };
        let unsent = failed.take_message();
        let error = failed.into_error();
        let again = match unsent {
            Some(unsent) => Some(Again { request: unsent, pause }),
            None if broke_off(&error) => copy.map(|copy| Again { request: copy, pause }),
            None => None,
        };
        Self { error: exchange_error(error), again }
    }
}

/// A copy of a request that may be sent twice: idempotent, and without a body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
    if !request.body().is_end_stream() || !idempotent.contains(request.method()) {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether the connection ended before a response began, and not in the middle of a malformed one.
fn broke_off(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || error.source().is_some_and(|source| source.is::<io::Error>())
}

/// What went wrong with an exchange: often it is the client's body that broke it.
fn exchange_error(error: hyper::Error) -> RequestError {
    match error.source().and_then(|source| source.downcast_ref::<BodyError>()) {
        Some(BodyError::TooBig) => RequestError::BodyTooBig,
        Some(BodyError::Idle) => RequestError::BodyTimeout,
        Some(BodyError::Form(error)) => RequestError::Form(*error),
        Some(BodyError::Client(_)) => RequestError::ClientGone,
        Some(BodyError::Backend(_) | BodyError::File(_)) | None => RequestError::Exchange(error),
    }
}
