//! Forwarding: one request to an origin and its response back, streamed both ways.

pub(crate) mod egress;
pub(crate) mod event_stream;
pub(crate) mod headers;
pub(crate) mod health;
pub(crate) mod identity;
mod live_stream;
pub(crate) mod pace;
pub(crate) mod pool;
pub(crate) mod send;
mod size_check;
mod socket;
mod stream;
mod upgrade;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;

use self::{
    egress::Form,
    event_stream::{Slot, Streams, Tried, Wanted},
    live_stream::Live,
    send::{Answer, Errand, Sender},
    stream::{Download, Progress, Upload},
};
use crate::{
    body::Body,
    client::Client,
    config::{BackendUrl, FrontendUrl},
    error::RequestError,
    form::{FilteredBody, Kind},
    framing::is_event_stream,
    head::Target,
    in_flight::InFlight,
    least_rate::LeastRate,
    rules::ProxyPolicy,
};

/// Where requests are forwarded to: the backend, or a front end elsewhere.
pub(crate) struct Upstream {
    sender: Arc<Sender>,
    /// How event streams are kept; `None`: they are requests like others.
    streams: Option<Streams>,
    scheme: Scheme,
    authority: Authority,
    /// The same as a `Host`: without a port that goes without saying, which strict virtual hosts do not know.
    own_host: Authority,
    /// A path that goes before the request's: empty, or beginning with `/` and not ending in one.
    base: Box<str>,
    host: HostHeader,
    bounds: Bounds,
}

/// What one exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The largest request body, in bytes.
    pub(crate) upload: u64,
    /// How a client sends one.
    pub(crate) upload_rate: LeastRate,
    /// The longest pause in a response body that is no event stream.
    pub(crate) download_idle: Duration,
    /// How long a request is tried again that could not be sent.
    pub(crate) retry_for: Duration,
}

/// Which name an origin is spoken to by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum HostHeader {
    /// The client's: the origin is an address, and makes its own links of the name that it is given.
    Client,
    /// Its own: an origin with a name may serve others beside it.
    Own,
}

/// What of a request its response is still held against.
struct Asked<'a> {
    method: Method,
    target: &'a Target,
    client: &'a Client,
    /// The largest response body, in bytes.
    limit: Option<u64>,
}

impl Upstream {
    pub(crate) fn new(
        url: FrontendUrl,
        sender: Arc<Sender>,
        streams: Option<Streams>,
        bounds: Bounds,
    ) -> Self {
        let FrontendUrl { origin: BackendUrl { scheme, authority }, base } = url;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_address = host.parse::<IpAddr>().is_ok() || host == "localhost";
        let host = if is_address { HostHeader::Client } else { HostHeader::Own };
        let own_host = headers::without_default_port(&scheme, &authority);
        Self { sender, streams, scheme, authority, own_host, base, host, bounds }
    }

    /// Looks whether the origin can be reached, for the log: a start without a backend is no error.
    pub(crate) async fn look(&self) {
        if let Err(error) = self.sender.pool.egress().connect(None).await {
            self.sender.health.refused(&error);
        }
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Connections in use, idle ones, and requests that wait for one.
    pub(crate) fn connections(&self) -> (usize, usize, usize) {
        self.sender.pool.counts()
    }

    /// For how long it has not answered.
    pub(crate) fn away(&self) -> Option<Duration> {
        self.sender.health.away()
    }

    /// Event streams that the origin feeds, and those that wait for it.
    pub(crate) fn streams(&self) -> (usize, usize) {
        let metrics = self.sender.health.metrics();
        (metrics.live.value(), metrics.held.value())
    }

    /// What is under way, for the log.
    pub(crate) fn log_status(&self) {
        let sender = &self.sender;
        let (busy, idle, waiting) = self.connections();
        let (live, held) = self.streams();
        let metrics = sender.health.metrics();
        let (retries, given_up) = (metrics.retries.value(), metrics.given_up.value());
        tracing::info!(
            origin = %self,
            busy, idle, waiting, streams_live = live, streams_held = held, streams_given_up = given_up, retries,
            "status"
        );
    }

    /// Forwards a request and gives the response's head, with a body that streams.
    pub(crate) async fn forward(
        &self,
        policy: ProxyPolicy,
        target: &Target,
        client: &Client,
        in_flight: &InFlight,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, RequestError> {
        let (mut parts, incoming) = request.into_parts();
        let upgrade = upgrade::wanted(&mut parts, policy, in_flight);
        let wants_events = wants_events(&parts.method, &parts.headers);
        headers::strip_request(&mut parts.headers);
        headers::set_forwarded(&mut parts.headers, client, target.host.as_ref());
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts.headers);
        }
        self.address(&mut parts, target)?;

        let limit = policy.max_size.filter(|_| parts.method == Method::GET || parts.method == Method::HEAD);
        if let Some(max) = limit
            && parts.method == Method::GET
            && !wants_events
        {
            size_check::probe(self, &parts, client, max).await?;
        }
        let asked = Asked { method: parts.method.clone(), target, client, limit };
        if let Some(streams) = self.streams.as_ref().filter(|_| wants_events && incoming.is_end_stream()) {
            return self.stream(streams, asked, parts).await;
        }
        let progress = Arc::new(Progress::new());
        let body = self.upload(&mut parts.headers, policy, incoming, &progress)?;
        let request = Request::from_parts(parts, body);
        let errand = Errand::Request { retry_for: self.bounds.retry_for };
        let (response, lease) = self.sender.send(request, client, &progress, errand).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(upgrade) = upgrade
        {
            let counted = self.sender.health.metrics().tunnels.count();
            return upgrade.tunnel(response, (lease, counted));
        }
        self.respond((response, lease), None, asked)
    }

    /// Whether it would keep an event stream open that `request` asks for.
    pub(crate) fn keeps<B>(&self, request: &Request<B>) -> bool {
        self.streams.is_some() && wants_events(request.method(), request.headers())
    }

    /// Opens an event stream, or holds it until it can be opened.
    async fn stream(
        &self,
        streams: &Streams,
        asked: Asked<'_>,
        parts: Parts,
    ) -> Result<Response<Body>, RequestError> {
        let wanted = Wanted {
            sender: Arc::clone(&self.sender),
            slots: streams.slots.clone(),
            hold_for: streams.hold_for,
            bounded_by: streams.bounded_by,
            drain: streams.drain.clone(),
            client: asked.client.clone(),
            limit: asked.limit,
            request: Request::from_parts(parts, ()),
        };
        match wanted.attempt().await {
            Tried::Live(answer, slot) => self.respond(answer, Some(slot), asked),
            Tried::Other((response, mut lease), _place) => {
                self.sender.count_as_request(&mut lease, asked.client).await?;
                self.respond((response, lease), None, asked)
            }
            Tried::Later(later) => Ok(wanted.hold(later)),
        }
    }

    /// The response for the client: its head cleaned, its body bounded. `slot`: it is an event stream's.
    fn respond(
        &self,
        (mut response, mut lease): Answer,
        mut slot: Option<Slot>,
        asked: Asked<'_>,
    ) -> Result<Response<Body>, RequestError> {
        let Asked { method, target, client, limit } = asked;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                return Err(RequestError::BadResponse("the backend switched protocols unasked"));
            }
            // Of a proxy on the way: it is we who have to know its password, and never the client.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED
                if matches!(self.sender.pool.egress().form(), Form::Absolute { .. }) =>
            {
                return Err(RequestError::BadResponse("the upstream proxy wants other credentials"));
            }
            _ => {}
        }
        let is_events = is_event_stream(response.headers());
        if let Some(max) = limit {
            size_check::response(&method, &response, max)?;
        }
        if let Some(streams) = &self.streams
            && slot.is_none()
            && is_events
            && !response.body().is_end_stream()
        {
            slot = Some(streams.slot(client, &self.sender).ok_or(RequestError::Busy)?);
            // It is no request any more.
            lease.counts(None);
        }
        headers::strip_response(response.headers_mut());
        let own: &[&Authority] = match (self.host, &target.host) {
            (HostHeader::Client, Some(host)) => &[&self.authority, host],
            (HostHeader::Client, None) | (HostHeader::Own, _) => &[&self.authority],
        };
        let public = target.host.as_ref().map(|host| (&client.scheme, host));
        headers::rewrite_location(response.headers_mut(), own, &self.base, public);
        if is_events {
            // It may be ended before that, in order.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        *response.version_mut() = Version::default();
        let idle = (!is_events).then_some(self.bounds.download_idle);
        Ok(response.map(|incoming| {
            if incoming.is_end_stream() {
                return Body::empty();
            }
            let download = Download::new(incoming, limit, idle, lease);
            match &self.streams {
                Some(streams) if is_events => Body::stream(Live::new(download, slot, &streams.drain)),
                Some(_) | None => Body::stream(download),
            }
        }))
    }

    /// Addresses a request to the origin: target, version, `Host`, and what a proxy on the way wants.
    fn address(&self, parts: &mut Parts, target: &Target) -> Result<(), RequestError> {
        let host = match (self.host, &target.host) {
            (HostHeader::Client, Some(host)) => host,
            (HostHeader::Client, None) | (HostHeader::Own, _) => &self.own_host,
        };
        let invalid = |_| RequestError::Head("a target that cannot be written");
        let host =
            HeaderValue::from_str(host.as_str()).map_err(|_| RequestError::Head("a Host that is none"))?;
        parts.headers.insert(HOST, host);
        parts.version = Version::HTTP_11;
        let path_and_query = PathAndQuery::try_from(target.path_and_query(&self.base)).map_err(invalid)?;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path_and_query);
        if let Form::Absolute { authorization } = self.sender.pool.egress().form() {
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
        if incoming.size_hint().exact().is_some_and(|length| length > self.bounds.upload) {
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
        let upload = Upload::new(incoming, self.bounds.upload, self.bounds.upload_rate, Arc::clone(progress));
        Ok(match kind {
            Kind::NotMultipart => Body::stream(upload),
            Kind::Multipart(filter) => {
                headers.remove(CONTENT_LENGTH);
                headers.insert(CONTENT_TYPE, filter.content_type());
                Body::stream(FilteredBody::new(filter, upload))
            }
        })
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.base)
    }
}

/// Whether a request is an EventSource's.
fn wants_events(method: &Method, headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let accepted = |value: &HeaderValue| {
        value.as_bytes().windows(EVENTS.len()).any(|at| at.eq_ignore_ascii_case(EVENTS))
    };
    method == Method::GET && headers.get_all(ACCEPT).iter().any(accepted)
}
