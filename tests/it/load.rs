//! Much at once, and for long (attacks.md K7, K8): small by default, in full in a long run against the static binary.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::{net::TcpListener, time::Interval};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{
    Backend, Client, Raw, Relay, Reply, Version, client::next_chunk, is_long,
    process::raise_descriptor_limit, within,
};

/// All clients are this machine's here.
const LIMITS: &str = "
    [limits]
    connections = 30000
    connections_per_client = 30000
    idle_connection = \"10m\"
    [backend]
    max_connections = 90";

/// What of `sorted` 99 of 100 are below.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// How long each of `count` new clients takes from connect to the end of its answer, TLS included.
async fn newcomers(relay: &Relay, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        assert_eq!(Client::https(relay, Version::Http1).get("/small").await.text(), "ok");
        times.push(began.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k7_idle_connections_cost_little_and_hold_nobody_up() {
    let (count, most) = if is_long() { (10_000, 25 << 10) } else { (400, 40 << 10) };
    raise_descriptor_limit();
    let backend = Backend::builder().on("/small", |_| Reply::ok("ok")).start().await;
    let relay =
        Relay::builder().self_signed().toml(LIMITS).backend(backend.address()).static_binary().start().await;
    let mut idle = Vec::with_capacity(count);
    let open = async |count: usize| {
        let mut opened = Vec::with_capacity(count);
        for _ in 0..count {
            let mut raw = Raw::tls(&relay).await;
            raw.send("GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert_eq!(raw.read_response().await.status(), 200);
            opened.push(raw);
        }
        opened
    };
    idle.extend(open(100).await);
    let alone = p99(newcomers(&relay, 200).await);
    let before = relay.rss();
    idle.extend(open(count).await);
    let each = (relay.rss() - before) / count as u64;
    let among = p99(newcomers(&relay, if is_long() { 1000 } else { 100 }).await);
    println!(
        "k7: {count} idle TLS connections, {each} bytes each; a newcomer's p99 {among:?}, {alone:?} before"
    );
    assert!(relay.descriptors() > count, "they are still open");
    assert!(each <= most, "{each} bytes for each idle connection");
    if is_long() {
        assert!(among < Duration::from_millis(50), "a newcomer's p99 is {among:?}");
    }
    drop(idle);
}

/// An event each 20 ms, for ever.
struct Ticks(Interval);

impl Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))))
    }
}

/// A backend that remembers nothing, since the harness's own remembers all that it was asked.
async fn forgetful() -> (SocketAddr, AbortOnDropHandle<()>) {
    async fn answer(request: Request<Incoming>) -> io::Result<Response<BoxBody<Bytes, Infallible>>> {
        let path = request.uri().path().to_owned();
        request.into_body().collect().await.map_err(io::Error::other)?;
        let mut response = Response::new(match path.as_str() {
            "/small" => Full::from("ok").boxed(),
            "/large" => Full::from(vec![0; 1 << 20]).boxed(),
            "/events" => Ticks(tokio::time::interval(Duration::from_millis(20))).boxed(),
            _ => return Err(io::ErrorKind::ConnectionAborted.into()),
        });
        if path == "/events" {
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        }
        Ok(response)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

/// What goes on in a soak, each kind again and again on connections of its own.
async fn traffic(relay: &Relay, until: Instant, kind: usize) -> usize {
    let mut rounds = 0;
    while Instant::now() < until {
        let version = if rounds % 2 == 0 { Version::Http2 } else { Version::Http1 };
        let client = Client::https(relay, version);
        match kind {
            0 => {
                for _ in 0..50 {
                    assert_eq!(client.get("/small").await.text(), "ok");
                }
            }
            1 => assert_eq!(client.call("POST", "/small").body(vec![7; 300 << 10]).send().await.text(), "ok"),
            2 => assert_eq!(client.get("/large").await.body.len(), 1 << 20),
            // A stream that its client leaves while it is fed.
            3 => {
                let response =
                    client.call("GET", "/events").header("accept", "text/event-stream").open().await;
                let mut body = response.into_body();
                assert!(next_chunk(&mut body).await.is_some());
            }
            // Nonsense, over TLS and without.
            4 => {
                let mut raw = Raw::tls(relay).await;
                raw.send("GET / HTTP/1.1\nHost: x\n\n").await;
                raw.read_to_end().await;
                let mut raw = Raw::plain(relay.https()).await;
                raw.send([22, 3, 1, 0, 4, 1, 0, 0, 0]).await;
                raw.read_to_end().await;
            }
            // A backend that breaks off.
            _ => {
                let answer = client.get("/broken").await;
                assert_eq!(answer.status, 502);
            }
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k8_memory_and_descriptors_come_back_under_mixed_load() {
    let minutes = std::env::var("PARLEY_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse::<f64>().ok());
    let lasts = Duration::from_secs_f64(60.0 * minutes.unwrap_or(if is_long() { 20.0 } else { 0.15 }));
    raise_descriptor_limit();
    let (address, backend) = forgetful().await;
    let relay = Arc::new(
        Relay::builder()
            .self_signed()
            .toml(LIMITS)
            // Shorter than it is for what never comes to an end, and enough for a client on a busy machine.
            .toml("[limits]\nhandshake = \"3s\"\n[log]\naccess = false")
            .backend(address)
            .static_binary()
            .start()
            .await,
    );
    assert_eq!(Client::https(&relay, Version::Http1).get("/small").await.text(), "ok");
    let descriptors = relay.descriptors();

    let began = Instant::now();
    let until = began + lasts;
    let clients: Vec<_> = (0..6)
        .map(|kind| {
            let relay = Arc::clone(&relay);
            tokio::spawn(async move { traffic(&relay, until, kind).await })
        })
        .collect();
    let mut seen = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(lasts / 200).await;
        seen.push(relay.rss());
        // It reads its config anew meanwhile.
        relay.signal(Signal::HUP);
    }
    let mut rounds = Vec::new();
    for client in clients {
        rounds.push(within("the last round", client).await.unwrap());
    }
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let quarter = seen.len() / 4;
    // The second quarter against the last tenth.
    let (early, late) = (median(&seen[quarter..2 * quarter]), median(&seen[seen.len() * 9 / 10..]));
    println!("k8: {lasts:?}, rounds {rounds:?}, {early} bytes after a quarter, {late} at the end");
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    // A short run is still warming up.
    let allowed = if lasts >= Duration::from_secs(600) { early / 20 } else { early / 4 };
    assert!(late <= early + allowed, "{early} bytes after a quarter, {late} at the end: {seen:?}");
    let back = async {
        // The connections to the backend may be kept idle for a while, as many as there were at most.
        while relay.descriptors() > descriptors + 8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    drop(backend);
    within("the descriptors to come back", back).await;
}
