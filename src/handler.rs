//! One request, top to bottom.

use std::net::IpAddr;

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, STRICT_TRANSPORT_SECURITY},
    uri::Scheme,
};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    access::{Decider, Entry, Logged},
    body::Body,
    client::{Client, Connection},
    error::RequestError,
    head::{self, Target},
    in_flight::InFlight,
    proxy::event_stream,
    rules::{Action, ProxyPolicy},
    site::{Frontend, Site},
};

/// Answers a request, whatever it is, and follows its response to the last byte.
pub(crate) async fn handle(
    site: &Site,
    connection: &Connection,
    mut request: Request<Incoming>,
) -> Response<Logged> {
    let in_flight = connection.requests.begin();
    let outcome = connection.metrics.requests.begin();
    let (is_head, version) = (request.method() == Method::HEAD, request.version());
    let mut entry = Entry::new(site.access, connection.peer.ip().to_canonical(), request.method().clone());
    let client = site.trust.client(connection.peer.ip(), &connection.scheme, request.headers_mut());
    entry.client(client.address);

    let refused = connection.requests.refused().or_else(|| head::beyond(connection.bounds, &request));
    let answer = match (refused, may_ask(site, client.address)) {
        (Some(fault), _) => Err((RequestError::Wire(fault), None)),
        (None, Ok(())) => respond(site, (connection, &client), &in_flight, request, &mut entry).await,
        (None, Err(too_many)) => {
            connection.metrics.requests.limited.add();
            too_often(site, too_many, &request, &mut entry).map_err(|error| (error, None))
        }
    };
    let mut response = answer.unwrap_or_else(|(error, target)| {
        entry.failed(&error);
        let mut response = site.pages.respond(&error, target.as_ref().map(|target| target.path.decoded()));
        if error.ends_connection() && version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    });
    if is_head {
        response = without_body(response);
    }
    if let Some(hsts) = site.hsts.as_ref().filter(|_| connection.scheme == Scheme::HTTPS) {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    outcome.answered(response.status());
    if connection.requests.is_closing() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let stream = connection.requests.stream().await;
    entry.follow(response, in_flight, (stream, site.least_rate))
}

/// Whether a client may send a request now. Who speaks for others, and for nobody now, has no limit.
fn may_ask(site: &Site, client: IpAddr) -> Result<(), RequestError> {
    match &site.rate {
        Some(rate) if !site.trust.believes(client) => {
            rate.take(client).map_err(RequestError::TooManyRequests)
        }
        Some(_) | None => Ok(()),
    }
}

/// The answer to one request too many. An EventSource gives up for good on any answer but 200: it is told when to
/// come back instead, which costs no more.
fn too_often(
    site: &Site,
    error: RequestError,
    request: &Request<Incoming>,
    entry: &mut Entry,
) -> Result<Response<Body>, RequestError> {
    if !site.backend.keeps(request) {
        return Err(error);
    }
    entry.failed(&error);
    Ok(event_stream::come_back_later(request.headers()))
}

/// A response to HEAD: the length that a GET would have, and no body. Over HTTP/2 hyper would send one.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, Body::empty())
}

/// Decides, and does what was decided. An error comes with the target where there is one: it is shown in the
/// way of the place that was asked for.
async fn respond(
    site: &Site,
    (connection, client): (&Connection, &Client),
    in_flight: &InFlight,
    request: Request<Incoming>,
    entry: &mut Entry,
) -> Result<Response<Body>, (RequestError, Option<Target>)> {
    let (parts, body) = request.into_parts();
    if head::is_of_the_server(&parts) {
        return Ok(head::allowed());
    }
    let target = head::target(&parts).map_err(|error| (error, None))?;
    let request = Request::from_parts(parts, body);
    entry.path(|| site.redactor.target(&target));
    if let (Some(names), Some(host)) = (&connection.names, &target.host)
        && !names.include(host)
        // What a proxy that we trust makes of the name is its business.
        && !site.trust.believes(connection.peer.ip())
    {
        return Err((RequestError::Misdirected, Some(target)));
    }
    let decision = site.rules.decide(request.method(), &target.path);
    entry.decided(decision.rule.map_or(Decider::Frontend, |(number, _)| Decider::Rule(number)));

    let answer = match decision.rule.map(|(_, rule)| &rule.action) {
        Some(Action::Block) => Err(RequestError::Blocked),
        Some(Action::Redirect { target, code }) => Ok(redirect(target, *code)),
        Some(Action::Proxy(policy)) => {
            site.backend.forward(*policy, &target, client, in_flight, request).await
        }
        None => frontend(site, &target, client, in_flight, request).await,
    };
    answer.map_err(|error| (error, Some(target)))
}

async fn frontend(
    site: &Site,
    target: &Target,
    client: &Client,
    in_flight: &InFlight,
    request: Request<Incoming>,
) -> Result<Response<Body>, RequestError> {
    match &site.frontend {
        Frontend::Files(files) => files.serve(request.method(), &target.path, request.headers()).await,
        Frontend::Backend => {
            site.backend.forward(ProxyPolicy::default(), target, client, in_flight, request).await
        }
        Frontend::Elsewhere(upstream) => {
            upstream.forward(ProxyPolicy::default(), target, client, in_flight, request).await
        }
        Frontend::Disabled => Err(RequestError::NotFound),
    }
}

fn redirect(target: &HeaderValue, code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::LOCATION, target.clone());
    response
}
