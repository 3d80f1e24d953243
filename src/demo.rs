//! The built-in backend: a page, a live stream, an upload echo and a download of any size.
//!
//! `parley-relay demo` puts the real edge in front of it, so that a newcomer sees the whole thing work without
//! Sova. It is a server of its own on a loopback port, speaks HTTP/1.1 alone as Sova does, and has Sova's path
//! shape, so that the rules of a default install send its API here too.

mod download;
mod events;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{body::Body, error::Chain};
use download::{Download, size_of};
use events::{EventStream, StreamCount};

const PAGE: &str = include_str!("demo/page.html");
const ICON: &str = include_str!("demo/icon.svg");

/// How long a connection may be silent between two requests: Waitress's `channel_timeout`.
const IDLE: Duration = Duration::from_secs(120);

/// Everything that can be asked for: the path, the methods, what is there, and how the index explains it.
#[rustfmt::skip] // A table reads better with a route a line.
const ROUTES: [(&str, &str, Route, &str); 7] = [
    ("/", GET, Route::Page, "a page that shows the live stream arriving"),
    ("/icon.svg", GET, Route::Icon, "the page's icon"),
    ("/api/v1/", GET, Route::Index, "this list, and what the backend saw of your request"),
    ("/api/v1/stream", GET, Route::Stream, "server-sent events, one a second, without end"),
    ("/api/v1/echo", SEND, Route::Echo, "reads a body of any size, answers its length and SHA-256"),
    ("/api/v1/download", GET, Route::Download, "that many bytes: ?size=64MiB (B, KiB, MiB, GiB; up to 16GiB)"),
    ("/health", GET, Route::Health, "whether the backend is up"),
];

const GET: &str = "GET, HEAD";
const SEND: &str = "POST, PUT, PATCH";

#[derive(Clone, Copy)]
enum Route {
    Page,
    Icon,
    Index,
    Stream,
    Echo,
    Download,
    Health,
}

/// The backend, bound to its address and not yet serving.
pub(crate) struct DemoBackend {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections have in common.
struct Shared {
    started: Instant,
    streams: StreamCount,
}

impl DemoBackend {
    /// Binds `address`; port 0 lets the system choose.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            shared: Arc::new(Shared { started: Instant::now(), streams: StreamCount::default() }),
        })
    }

    /// The address that was bound.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves without end. Dropping the future closes the listener and every connection.
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(serve(stream, peer, self.shared.clone()));
                    }
                    // Out of descriptors, most likely: accept again once some may have been closed.
                    Err(error) => {
                        tracing::warn!(%error, "the demo backend cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                // Takes the ended ones out of the set. A panic has been reported by the panic hook and has
                // ended its own connection alone.
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    // An event is smaller than a segment: without this it would wait for the one before to be acknowledged.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the demo backend cannot set TCP_NODELAY");
    }
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(request, peer, &shared).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %Chain(&error), "a connection of the demo backend broke");
    }
}

async fn respond(request: Request<Incoming>, peer: SocketAddr, shared: &Shared) -> Response<Body> {
    // The index is where its relative links say, and where someone types it.
    let path = match request.uri().path() {
        "/api/v1" => "/api/v1/",
        path => path,
    };
    let Some((_, methods, route, _)) = ROUTES.iter().find(|(known, ..)| *known == path) else {
        return refusal(StatusCode::NOT_FOUND, "not found");
    };
    if !methods.split(", ").any(|method| request.method() == method) {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        return response;
    }
    // hyper sends the head of these and drops the body when the method is HEAD.
    match route {
        Route::Page => page(),
        Route::Icon => content("image/svg+xml", Body::full(ICON)),
        Route::Index => index(&request, peer),
        Route::Stream => stream(request.headers(), shared),
        Route::Echo => echo(request).await,
        Route::Download => download(request.uri().query()),
        Route::Health => answer(StatusCode::OK, &json!({ "status": "ok" })),
    }
}

fn page() -> Response<Body> {
    let mut response = content("text/html; charset=utf-8", Body::full(PAGE));
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self' 'unsafe-inline'; frame-ancestors 'none'"),
    );
    response
}

/// The routes, and the request as it arrived, so that one can see what the relay sends.
fn index(request: &Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let routes: Vec<Value> = ROUTES
        .iter()
        .map(|(path, methods, _, about)| json!({ "path": path, "methods": methods, "about": about }))
        .collect();
    let headers: Vec<String> =
        request.headers().iter().map(|(name, value)| format!("{name}: {}", shown(name, value))).collect();
    answer(
        StatusCode::OK,
        &json!({
            "name": "parley-relay demo",
            "version": env!("CARGO_PKG_VERSION"),
            "time": events::now(),
            "routes": routes,
            "request": {
                "method": request.method().as_str(),
                // Without the query: in front of Sova it is where tokens are.
                "path": request.uri().path(),
                "version": format!("{:?}", request.version()),
                "client": peer.ip(),
                "headers": headers,
            },
        }),
    )
}

/// A header's value, unless it may be a secret: an answer ends up in screenshots and bug reports.
fn shown(name: &http::HeaderName, value: &HeaderValue) -> String {
    if [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION].contains(name) {
        "(not shown)".to_owned()
    } else {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    }
}

fn stream(headers: &HeaderMap, shared: &Shared) -> Response<Body> {
    // A browser that comes back says what it saw last; its events go on from there.
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    content(
        "text/event-stream",
        Body::stream(EventStream::after(last, shared.started, shared.streams.open())),
    )
}

/// Reads the body as it arrives and keeps nothing of it.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let (head, mut body) = request.into_parts();
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    hash.update(data);
                    bytes += data.len() as u64;
                }
            }
            // Broken off or no valid body: whoever sent it may still be there to be told.
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "an upload to the demo backend broke");
                return refusal(StatusCode::BAD_REQUEST, "bad request");
            }
        }
    }
    let content_type = head.headers.get(header::CONTENT_TYPE);
    answer(
        StatusCode::OK,
        &json!({
            "bytes": bytes,
            "sha256": hex(hash.finish().as_ref()),
            "seconds": (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            "content_type": content_type.map(|value| String::from_utf8_lossy(value.as_bytes())),
        }),
    )
}

fn download(query: Option<&str>) -> Response<Body> {
    match size_of(query.unwrap_or_default()) {
        Some(size) => content("application/octet-stream", Body::stream(Download::new(size))),
        None => refusal(
            StatusCode::BAD_REQUEST,
            "size is a number of bytes, or one with KiB, MiB or GiB, up to 16GiB",
        ),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, &json!({ "error": message }))
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = content("application/json", Body::full(format!("{value:#}\n")));
    *response.status_mut() = status;
    response
}

/// `no-store`: a demo is asked again and again, and each answer is about now.
fn content(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
