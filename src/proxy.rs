//! Forwarding: one request to an origin and its response back, streamed both ways.

pub(crate) mod egress;
pub(crate) mod headers;
pub(crate) mod pool;
mod size_check;
mod stream;
mod upgrade;

use std::{error::Error as _, net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio_util::task::TaskTracker;

use self::{
    egress::Form,
    pool::{Age, Lease, Pool},
    stream::{Download, Progress, Upload},
};
use crate::{
    body::Body,
    client::Client,
    config::BackendUrl,
    error::{BodyError, RequestError},
    form::{FilteredBody, FormError, Kind},
    head::Target,
    rules::ProxyPolicy,
};

/// Where requests are forwarded to: the backend, or a front end elsewhere.
pub(crate) struct Upstream {
    pool: Pool,
    scheme: Scheme,
    authority: Authority,
    /// A path that goes before the request's: empty, or beginning with `/` and not ending in one.
    base: Box<str>,
    host: HostHeader,
    bounds: Bounds,
    /// Tunnels outlive their request; this keeps them in sight.
    tunnels: TaskTracker,
}

/// What one exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The largest request body, in bytes.
    pub(crate) upload: u64,
    /// The longest pause in a request body.
    pub(crate) upload_idle: Duration,
    /// From the last byte of the request to the head of the response.
    pub(crate) response: Duration,
    /// The longest pause in a response body that is no event stream.
    pub(crate) download_idle: Duration,
}

/// Which name an origin is spoken to by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum HostHeader {
    /// The client's: the origin is an address, and makes its own links of the name that it is given.
    Client,
    /// Its own: an origin with a name may serve others beside it.
    Own,
}

impl Upstream {
    pub(crate) fn new(
        url: &BackendUrl,
        base: Box<str>,
        pool: Pool,
        bounds: Bounds,
        tunnels: TaskTracker,
    ) -> Self {
        let host = url.authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_address = host.parse::<IpAddr>().is_ok() || host == "localhost";
        Self {
            pool,
            scheme: url.scheme.clone(),
            authority: url.authority.clone(),
            base,
            host: if is_address {
                HostHeader::Client
            } else {
                HostHeader::Own
            },
            bounds,
            tunnels,
        }
    }

    /// Forwards a request and gives the response's head, with a body that streams.
    pub(crate) async fn forward(
        &self,
        policy: ProxyPolicy,
        target: &Target,
        client: &Client,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, RequestError> {
        let (mut parts, incoming) = request.into_parts();
        let upgrade = upgrade::wanted(&mut parts, policy);
        let wants_events = accepts_event_stream(&parts.headers);
        headers::strip_request(&mut parts.headers);
        headers::set_forwarded(&mut parts.headers, client, target.host.as_ref());
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts.headers);
        }
        self.address(&mut parts, target)?;

        let limit = match policy.max_size {
            Some(max) if parts.method == Method::GET && !wants_events => {
                size_check::probe(self, &parts, max).await?;
                Some(max)
            }
            limit => limit.filter(|_| parts.method == Method::GET || parts.method == Method::HEAD),
        };
        let progress = Arc::new(Progress::new());
        let body = self.upload(&mut parts.headers, policy, incoming, &progress)?;
        let method = parts.method.clone();
        let (mut response, lease) = self.send(Request::from_parts(parts, body), &progress).await?;

        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = upgrade.ok_or(RequestError::BadResponse(
                "the backend switched protocols unasked",
            ))?;
            return upgrade.tunnel(response, lease, &self.tunnels);
        }
        if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // Of a proxy on the way: it is we who have to know its password, and never the client.
            return Err(RequestError::BadResponse(
                "the upstream proxy wants other credentials",
            ));
        }
        headers::one_framing(response.headers()).map_err(RequestError::BadResponse)?;
        let is_events = is_event_stream(response.headers());
        let limit = limit.filter(|_| !is_events);
        if let Some(max) = limit {
            size_check::response(&method, &response, max)?;
        }
        headers::strip_response(response.headers_mut());
        if let Some(host) = &target.host {
            let own: &[&Authority] = match self.host {
                HostHeader::Client => &[&self.authority, host],
                HostHeader::Own => &[&self.authority],
            };
            headers::rewrite_location(response.headers_mut(), own, (&client.scheme, host));
        }
        *response.version_mut() = Version::default();
        let idle = (!is_events).then_some(self.bounds.download_idle);
        Ok(response.map(|incoming| {
            if incoming.is_end_stream() {
                drop(lease);
                Body::empty()
            } else {
                Body::stream(Download::new(incoming, limit, idle, lease))
            }
        }))
    }

    /// Addresses a request to the origin: target, version, `Host`, and what a proxy on the way wants.
    fn address(&self, parts: &mut Parts, target: &Target) -> Result<(), RequestError> {
        let host = match (self.host, &target.host) {
            (HostHeader::Client, Some(host)) => host,
            (HostHeader::Client, None) | (HostHeader::Own, _) => &self.authority,
        };
        let invalid = |_| RequestError::Head("a target that cannot be written");
        let host =
            HeaderValue::from_str(host.as_str()).map_err(|_| RequestError::Head("a Host that is none"))?;
        parts.headers.insert(HOST, host);
        parts.version = Version::HTTP_11;
        let path_and_query = PathAndQuery::try_from(target.path_and_query(&self.base)).map_err(invalid)?;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path_and_query);
        if let Form::Absolute { authorization } = self.pool.egress().form() {
            uri.scheme = Some(self.scheme.clone());
            uri.authority = Some(self.authority.clone());
            if let Some(authorization) = authorization {
                parts.headers.insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        parts.uri =
            Uri::from_parts(uri).map_err(|_| RequestError::Head("a target that cannot be written"))?;
        Ok(())
    }

    /// The body as it goes upstream: bounded, and filtered where the rule says so.
    fn upload(
        &self,
        headers: &mut HeaderMap,
        policy: ProxyPolicy,
        incoming: Incoming,
        progress: &Arc<Progress>,
    ) -> Result<Body, RequestError> {
        if incoming
            .size_hint()
            .exact()
            .is_some_and(|length| length > self.bounds.upload)
        {
            return Err(RequestError::BodyTooBig);
        }
        let kind = if policy.block_files {
            crate::form::kind(headers).map_err(RequestError::Form)?
        } else {
            Kind::NotMultipart
        };
        if incoming.is_end_stream() && matches!(kind, Kind::NotMultipart) {
            return Ok(Body::empty());
        }
        let upload = Upload::new(
            incoming,
            self.bounds.upload,
            self.bounds.upload_idle,
            Arc::clone(progress),
        );
        Ok(match kind {
            Kind::NotMultipart => Body::stream(upload),
            Kind::Multipart(filter) => {
                headers.remove(CONTENT_LENGTH);
                headers.insert(CONTENT_TYPE, filter.content_type());
                Body::stream(FilteredBody::new(filter, upload))
            }
        })
    }

    /// Sends a request and waits for the head of its response. One that found its pooled connection closed
    /// before anything was written goes out again on another.
    async fn send(
        &self,
        mut request: Request<Body>,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Lease), RequestError> {
        loop {
            let mut lease = self.pool.lease().await?;
            let sending = lease.sender().try_send_request(request);
            match self.in_time(progress, sending).await? {
                Ok(response) => return Ok((response, lease)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if lease.age() == Age::Reused => request = unsent,
                    _ => return Err(exchange_error(failed.into_error())),
                },
            }
        }
    }

    /// Bounds the wait for a response's head, counted from when the request last moved.
    async fn in_time(
        &self,
        progress: &Progress,
        sending: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>>,
    ) -> Result<Result<Response<Incoming>, TrySendError<Request<Body>>>, RequestError> {
        let mut sending = std::pin::pin!(sending);
        let mut seen = progress.last();
        loop {
            match tokio::time::timeout_at(seen + self.bounds.response, &mut sending).await {
                Ok(outcome) => return Ok(outcome),
                Err(_) if progress.last() > seen => seen = progress.last(),
                Err(_) => return Err(RequestError::ResponseTimeout),
            }
        }
    }
}

/// What went wrong with an exchange: often it is the client's body that broke it.
fn exchange_error(error: hyper::Error) -> RequestError {
    match error
        .source()
        .and_then(|source| source.downcast_ref::<BodyError>())
    {
        Some(BodyError::TooBig) => RequestError::BodyTooBig,
        Some(BodyError::Idle) => RequestError::BodyTimeout,
        Some(BodyError::Form(error)) => RequestError::Form(FormError::clone(error)),
        Some(BodyError::Client(_)) => RequestError::ClientGone,
        Some(BodyError::Backend(_) | BodyError::File(_)) | None => RequestError::Exchange(error),
    }
}

/// Whether a request is an EventSource's.
fn accepts_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.as_bytes().windows(17).any(|at| at == b"text/event-stream"))
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}
