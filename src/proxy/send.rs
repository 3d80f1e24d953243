//! One request to an origin until the head of its response: connections, deadlines, and what is tried again.
//!
//! What was certainly not sent is tried again, whatever it is; what may have been sent once more, and only if it is
//! idempotent and has no body (RFC 9110 9.2.2). Nothing else ever: a message must not appear twice.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    headers,
    health::Health,
    identity::{Identity, Source},
    pace::Pace,
    pool::{Age, Lease, Pool},
    stream::Progress,
};
use crate::{
    body::Body,
    budget::share::Share,
    client::Client,
    error::{BodyError, ConnectError, RequestError},
};

/// The first pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// One client has at most this part of the connections to an origin.
const PARTS: usize = 4;

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Errand {
    /// A request. What can be tried again is, for so long.
    Request { retry_for: Duration },
    /// One try for an event stream. It has a slot: streams are bounded by those, for each client too.
    Stream,
}

/// How requests reach an origin.
pub(crate) struct Sender {
    pub(crate) pool: Pool,
    /// `None`: the backend sees the relay alone.
    pub(crate) identity: Option<Arc<Identity>>,
    /// From the last byte of the request to the head of the response.
    pub(crate) response_within: Duration,
    pub(crate) health: Arc<Health>,
    /// Cancelled when a reload has put another in its place: what still waits for the origin has to ask that one.
    pub(crate) replaced: CancellationToken,
}

/// A response's head, and the connection that its body comes on.
pub(super) type Answer = (Response<Incoming>, Lease);

impl Sender {
    /// Sends a request for `client`.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        client: &Client,
        progress: &Progress,
        errand: Errand,
    ) -> Result<Answer, RequestError> {
        let give_up = Instant::now()
            + match errand {
                Errand::Request { retry_for } => retry_for,
                Errand::Stream => Duration::ZERO,
            };
        let mut pace = Pace::new(PAUSES);
        // RFC 9110 9.2.2: what failed when it was repeated is not repeated again.
        let mut repeat = Repeat::Once;
        loop {
            let error = match self.lease(client, errand).await {
                Ok(lease) => {
                    let age = lease.age();
                    match self.exchange(request, lease, progress, repeat).await {
                        Ok(answer) => {
                            self.health.answered();
                            return Ok(answer);
                        }
                        Err(Failed { error, again: Again::Not }) => {
                            if let RequestError::Exchange(_) = &error {
                                self.health.broke_off(&error);
                            }
                            return Err(error);
                        }
                        // The pooled connection was closed while nobody looked: another will do, at once.
                        Err(Failed { again: Again::Unsent(unsent), .. }) if age == Age::Reused => {
                            request = unsent;
                            continue;
                        }
                        Err(Failed { again: Again::Repeated(copy), .. }) => {
                            (request, repeat) = (copy, Repeat::Never);
                            continue;
                        }
                        Err(Failed { error, again: Again::Unsent(unsent) }) => {
                            request = unsent;
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            if let RequestError::Connect(_) = &error {
                self.health.refused(&error);
            } else if let RequestError::Exchange(_) = &error {
                self.health.broke_off(&error);
            } else {
                // It waited for its turn as long as it may.
                return Err(error);
            }
            let next = Instant::now() + pace.next();
            if next >= give_up {
                return Err(error);
            }
            self.health.metrics().retries.add();
            tokio::time::sleep_until(next).await;
        }
    }

    /// A connection, when one of the client's share is free.
    async fn lease(&self, client: &Client, errand: Errand) -> Result<Lease, RequestError> {
        let end = Instant::now() + self.pool.queue_for;
        let share = match errand {
            Errand::Request { .. } => Some(self.share(client, end).await?),
            Errand::Stream => None,
        };
        let mut lease = self.connection(client, end).await?;
        lease.counts(share);
        Ok(lease)
    }

    /// Counts an exchange as a request's from now on: SECURITY: what was to be a stream and is none may be as large and
    /// as slow as any.
    pub(super) async fn count_as_request(
        &self,
        lease: &mut Lease,
        client: &Client,
    ) -> Result<(), RequestError> {
        let share = self.share(client, Instant::now() + self.pool.queue_for).await?;
        lease.counts(Some(share));
        Ok(())
    }

    /// A place in the client's share of the connections.
    async fn share(&self, client: &Client, end: Instant) -> Result<Share, RequestError> {
        let sockets = self.pool.sockets();
        match sockets.try_share(client, PARTS) {
            Some(share) => Ok(share),
            None => tokio::time::timeout_at(end, sockets.share(client, PARTS))
                .await
                .map_err(|_| RequestError::Busy),
        }
    }

    /// A connection that stands for the client where that is possible.
    async fn connection(&self, client: &Client, end: Instant) -> Result<Lease, RequestError> {
        let source: Source = self.identity.as_ref().and_then(|identity| identity.source(client.address));
        match (self.pool.lease(source, end).await, &self.identity) {
            (Err(RequestError::Connect(ConnectError::Source(error))), Some(identity)) => {
                identity.refuse(&error);
                self.pool.lease(None, end).await
            }
            (leased, _) => leased,
        }
    }

    async fn exchange(
        &self,
        request: Request<Body>,
        mut lease: Lease,
        progress: &Progress,
        repeat: Repeat,
    ) -> Result<Answer, Failed> {
        let copy = if repeat == Repeat::Once { copy(&request) } else { None };
        lease.forget_received();
        match self.in_time(progress, lease.send(request)).await {
            None => Err(Failed { error: RequestError::ResponseTimeout, again: Again::Not }),
            Some(Ok(response)) => match headers::passable(response.headers()) {
                Ok(()) => {
                    lease.answered();
                    Ok((response, lease))
                }
                // What follows on this connection may be anything.
                Err(fault) => {
                    lease.discard();
                    Err(Failed { error: RequestError::BadResponse(fault), again: Again::Not })
                }
            },
            // With a byte of the response there, the backend has answered, whatever it was to be.
            Some(Err((failed, received))) => Err(Failed::of(failed, copy.filter(|_| !received))),
        }
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

/// Whether a request that may have been sent already may be sent once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Repeat {
    Once,
    Never,
}

/// A failed exchange, and what may follow.
struct Failed {
    error: RequestError,
    again: Again,
}

enum Again {
    Not,
    /// It was certainly not sent.
    Unsent(Request<Body>),
    /// It may have been, and is the same when it is done twice.
    Repeated(Request<Body>),
}

impl Failed {
    fn of(mut failed: TrySendError<Request<Body>>, copy: Option<Request<Body>>) -> Self {
        let unsent = failed.take_message();
        let error = failed.into_error();
        let again = match (unsent, copy) {
            (Some(unsent), _) => Again::Unsent(unsent),
            (None, Some(copy)) if broke_off(&error) => Again::Repeated(copy),
            (None, _) => Again::Not,
        };
        Self { error: exchange_error(error), again }
    }
}

/// A copy of a request that is the same when it is done twice: idempotent, and without a body.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
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
        Some(BodyError::UploadTooBig) => RequestError::BodyTooBig,
        Some(BodyError::UploadIdle) => RequestError::BodyTimeout,
        Some(BodyError::Form(error)) => RequestError::Form(*error),
        Some(body @ BodyError::Client(_)) => {
            body.fault().map_or(RequestError::ClientGone, RequestError::Body)
        }
        // These are of responses.
        Some(
            BodyError::Backend(_) | BodyError::DownloadTooBig | BodyError::DownloadIdle | BodyError::File(_),
        )
        | None => RequestError::Exchange(error),
    }
}
