//! Clients that keep others waiting (attacks.md L1): slow heads, slow bodies, slow readers, half a handshake. Honest
//! requests succeed meanwhile.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use crate::harness::{
    Backend, Client, Frames, Raw, Relay, Reply, Version, client::next_chunk, frames::INITIAL_WINDOW_SIZE,
    network::Network, on_h1_and_h2, process::raise_descriptor_limit, raw, relay::field, within,
};

const SECOND: Duration = Duration::from_secs(1);
/// Short limits: what is allowed in them is 240 bytes.
const LIMITS: &str = "[limits]\nhandshake = \"1s\"\nrequest_head = \"1s\"\nidle_body = \"1s\"";

async fn relay(backend: &Backend, limits: &str) -> Relay {
    Relay::builder().self_signed().backend(backend.address()).toml(limits).start().await
}

/// Somebody who asks and asks, and is always answered soon.
struct Honest {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<(usize, Duration)>,
}

impl Honest {
    fn begin(relay: &Relay, version: Version) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (Client::https(relay, version), Arc::clone(&stop));
        let asking = tokio::spawn(async move {
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(client.get("/honest").await.text(), "ok");
                slowest = slowest.max(asked.elapsed());
                count += 1;
                sleep(SECOND / 20).await;
            }
            (count, slowest)
        });
        Self { stop, asking }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, slowest) = within("the honest client", self.asking).await.unwrap();
        assert!(count > 3 && slowest < 5 * SECOND, "{count} requests, the slowest in {slowest:?}");
    }
}

/// Sends a byte every tenth of a second until the relay closes, and gives what it answered, and after how long.
async fn drip(mut raw: Raw, bytes: &[u8]) -> (String, Duration) {
    let began = Instant::now();
    for byte in bytes {
        if began.elapsed() > 3 * SECOND || !raw.try_send(&[*byte]).await {
            break;
        }
        sleep(SECOND / 10).await;
    }
    (String::from_utf8(raw.read_to_end().await).unwrap(), began.elapsed())
}

#[tokio::test]
async fn l1_a_head_that_is_not_whole_in_time_is_408() {
    let backend = Backend::start().await;
    let relay = relay(&backend, LIMITS).await;
    let honest = [Honest::begin(&relay, Version::Http1), Honest::begin(&relay, Version::Http2)];
    let whole = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let many = "GET /x HTTP/1.1\r\nHost: localhost\r\nA: b\r\nC: d\r\nE: f\r\nG: h\r\n";
    for (before, dripping) in [
        ("", "G"),
        ("", "GET /x HTTP/1.1\r\nHost: localhost\r\n"),
        ("\r\n\r\n", "GET /x HTTP/1.1\r\n"),
        ("GET /x HTTP/1.1\r\nHost: localhost\r\n", "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy"),
        ("GET /x HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r", ""),
        (whole, "GET /x HTTP/1.1\r\nHost: loca"),
        ("", many),
    ] {
        let mut raw = Raw::tls(&relay).await;
        raw.send(before).await;
        if before == whole {
            assert_eq!(raw.read_response().await.body, b"ok");
        }
        let (answer, after) = drip(raw, dripping.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{dripping:?}: {answer}");
        assert!(answer.ends_with("\r\n\r\n{\"error\":\"request timeout\"}"), "{answer}");
        assert_eq!(raw::header(&answer, "connection"), Some("close"), "{answer}");
        assert!(after > SECOND * 9 / 10 && after < 5 * SECOND, "{dripping:?}: {after:?}");
    }
    // Empty lines are no head, and owe nothing.
    let mut raw = Raw::tls(&relay).await;
    raw.send("\r\n\r\n").await;
    sleep(2 * SECOND).await;
    raw.send(whole).await;
    assert_eq!(raw.read_response().await.body, b"ok");

    let line = relay.log_with(&[" access ", " status=408 "]).await;
    assert_eq!((field(&line, "path").as_deref(), field(&line, "method").as_deref()), (Some("-"), Some("-")));
    for honest in honest {
        honest.end().await;
    }
    assert!(backend.requests().iter().all(|request| request.target == "/honest" || request.target == "/x"));
}

#[tokio::test]
async fn l1_a_head_that_is_slow_on_port_80_is_408_too() {
    let relay =
        Relay::builder().self_signed().toml(LIMITS).toml("[server]\nhttp_port = \"auto\"").start().await;
    for (at_once, dripping, status) in [
        ("", "GET / HTTP/1.1\r\n", 408),
        ("GET / HTTP/1.1\n", "", 400),
        ("GET / HTTP/3.0\r\n", "", 505),
        ("CONNECT a:1 HTTP/1.1\r\n", "", 405),
    ] {
        let mut raw = Raw::plain(relay.redirect()).await;
        raw.send(at_once).await;
        let (answer, _) = drip(raw, dripping.as_bytes()).await;
        assert_eq!(raw::status(&answer), status, "{answer}");
        assert_eq!(raw::header(&answer, "connection"), Some("close"), "{answer}");
        assert_eq!(raw::header(&answer, "content-type"), Some("text/plain"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

on_h1_and_h2! {
    async fn l1_a_body_that_stops_is_408(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend, LIMITS).await;
        let honest = Honest::begin(&relay, version);
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/x").streamed();
        body.try_send(Bytes::from_static(b"half")).unwrap();
        let asked = Instant::now();
        assert_eq!(call.open().await.status(), 408);
        assert!(asked.elapsed() > SECOND * 9 / 10 && asked.elapsed() < 5 * SECOND, "{:?}", asked.elapsed());
        let is_given_up = |requests: &Vec<_>| requests.iter().any(is_abandoned_post);
        backend.wait("the relay to give up", is_given_up).await;
        drop(body);
        let line = relay.access("/x").await;
        assert_eq!(field(&line, "status").as_deref(), Some("408"), "{line}");
        honest.end().await;
    }

    async fn l1_a_body_below_the_least_rate_is_408_and_one_above_it_is_not(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend, LIMITS).await;
        let client = Client::https(&relay, version);
        // No pause is as long as the limit: it is the rate alone that counts.
        for (piece, expected) in [(10, 408), (100, 200)] {
            let (call, body) = client.call("POST", "/x").streamed();
            let feeding = tokio::spawn(async move {
                for _ in 0..20 {
                    if body.send(vec![b'x'; piece].into()).await.is_err() {
                        break;
                    }
                    sleep(SECOND / 5).await;
                }
            });
            let answer = call.open().await;
            assert_eq!(answer.status(), expected, "{piece} bytes in 0.2 s");
            feeding.abort();
        }
    }

    async fn l1_without_a_least_rate_a_body_may_drip(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend, &format!("{LIMITS}\nleast_rate = 0")).await;
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/x").streamed();
        let feeding = tokio::spawn(async move {
            for _ in 0..12 {
                body.send(Bytes::from_static(b"x")).await.unwrap();
                sleep(SECOND / 4).await;
            }
        });
        assert_eq!(call.open().await.status(), 200);
        feeding.await.unwrap();
        assert_eq!(backend.only().length, 12);
    }

    async fn l1_what_the_backend_is_slow_with_is_not_held_against_the_client(version) {
        let backend = Backend::builder()
            .on("/slow", |_| Reply::feed())
            .on("/events", |_| Reply::events())
            .start()
            .await;
        let relay = relay(&backend, &format!("{LIMITS}\n[backend]\nidle_timeout = \"30s\"")).await;
        let client = Client::https(&relay, version);
        for path in ["/slow", "/events"] {
            let mut body = client.call("GET", path).open().await.into_body();
            let feed = backend.feed().await;
            for _ in 0..8 {
                feed.send("data: 1\n\n").await;
                assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\n\n");
                sleep(SECOND / 2).await;
            }
        }
    }
}

fn is_abandoned_post(request: &crate::harness::backend::Recorded) -> bool {
    request.method == "POST" && request.abandoned && request.ended.is_none()
}

#[tokio::test]
async fn l1_a_reader_that_takes_too_little_is_ended_over_h1() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(64 << 20)).start().await;
    let relay = Relay::builder().backend(backend.address()).toml(LIMITS).start().await;
    let socket = TcpSocket::new_v4().unwrap();
    // Small: what the kernel keeps for the client is out of the relay's hands.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut raw = Raw::over(socket.connect(relay.http()).await.unwrap());
    raw.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    raw.read_head().await;
    let began = Instant::now();
    let sips = tokio::spawn(async move {
        for _ in 0..100 {
            raw.read(10).await;
            sleep(SECOND / 10).await;
        }
    });
    let line = relay.access("/large").await;
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
    assert_eq!(field(&line, "end").as_deref(), Some("aborted"), "{line}");
    backend.wait("the relay to give up", |requests| requests[0].abandoned).await;
    sips.abort();
}

#[tokio::test]
async fn l1_a_reader_that_takes_too_little_is_ended_over_h2() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(64 << 20)).start().await;
    let relay = relay(&backend, LIMITS).await;
    let honest = Honest::begin(&relay, Version::Http2);
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 10)]).await;
    frames.get(1, "/large").await;
    let began = Instant::now();
    while began.elapsed() < 8 * SECOND && frames.window(1, 10).await {
        sleep(SECOND / 10).await;
    }
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
    let line = relay.access("/large").await;
    assert_eq!(field(&line, "end").as_deref(), Some("aborted"), "{line}");
    backend
        .wait("the relay to give up", |requests| requests.iter().any(|r| r.target == "/large" && r.abandoned))
        .await;
    honest.end().await;
}

/// The first bytes of a ClientHello.
const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01";

#[tokio::test]
async fn l1_half_a_client_hello_is_given_up() {
    let relay = Relay::builder().self_signed().toml(LIMITS).start().await;
    for start in [&b""[..], &HALF[..1], HALF] {
        let mut raw = Raw::plain(relay.https()).await;
        raw.send(start).await;
        let asked = Instant::now();
        raw.read_to_end().await;
        assert!((1..4).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn l1_many_slow_clients_at_once_keep_nobody_else_waiting() {
    raise_descriptor_limit();
    let many = if crate::harness::is_long() { 5000 } else { 300 };
    let backend = Backend::start().await;
    let limits = "[limits]\nhandshake = \"3s\"\nrequest_head = \"3s\"";
    let relay = relay(&backend, limits).await;
    let honest = [Honest::begin(&relay, Version::Http1), Honest::begin(&relay, Version::Http2)];
    let began = Instant::now();
    let mut slow = Vec::new();
    for number in 0..many {
        let mut stream = connect_from(number, relay.https()).await;
        // A third says nothing, a third half a ClientHello, and a third the beginning of plain HTTP.
        let start = [&b""[..], HALF, b"GET / HTTP/1.1\r\nHo"][number % 3];
        stream.write_all(start).await.unwrap();
        slow.push(Raw::over(stream));
    }
    for mut raw in slow {
        raw.read_to_end().await;
    }
    assert!(began.elapsed() > 3 * SECOND);
    for honest in honest {
        honest.end().await;
    }
}

/// From one of many addresses, since a single client may not have so many connections.
async fn connect_from(number: usize, address: std::net::SocketAddr) -> TcpStream {
    let last = u8::try_from(number % 100 + 1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 7, last)), 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// The published tool, in its three modes, with as many connections as it takes: only in a long run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_slowhttptest_does_not_take_the_service_away() {
    if !crate::harness::is_long() {
        return;
    }
    // From this machine it would be one client with the honest one.
    let Some(network) = Network::new() else { return };
    raise_descriptor_limit();
    let backend = Backend::start().await;
    let everywhere = "[server]\nhost = \"0.0.0.0\"";
    let builder = Relay::builder().self_signed().toml(everywhere).backend(backend.address());
    let relay = builder.static_binary().start().await;
    for mode in ["-H", "-B", "-X"] {
        let honest = Honest::begin(&relay, Version::Http2);
        let url = format!("https://{}:{}/x", network.here(), relay.https().port());
        let arguments = [mode, "-c", "250", "-r", "250", "-l", "25", "-i", "5", "-p", "2", "-u", &url];
        let mut tool = network.command("slowhttptest", &arguments);
        tool.stdin(std::process::Stdio::null());
        let run = tokio::task::spawn_blocking(move || tool.output().unwrap());
        let output = tokio::time::timeout(60 * SECOND, run).await.expect("it ends by itself").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("slowhttptest {mode}: {}", said.lines().rev().take(4).collect::<Vec<_>>().join(" | "));
        assert!(output.status.success() && said.contains("slowhttptest version"), "{mode}: {said}");
        honest.end().await;
    }
}
