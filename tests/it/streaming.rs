//! Bodies go through as they come, in both directions, in constant memory.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::harness::{
    Backend, Client, Flask, Raw, Relay, Reply, Version,
    client::{count, next_chunk},
    on_h1_and_h2,
    process::raise_descriptor_limit,
    raw, within,
};

const MIB: u64 = 1024 * 1024;
/// What one transfer, however large, may add to the relay's memory.
const GROWTH: u64 = 8 * MIB;
/// A transfer that comes before, so that the allocator's own pools are there. They do not grow with what follows.
const WARM: u64 = 64 * MIB;

/// A relay with TLS before `backend`, that proxies everything.
async fn relay(backend: &Backend) -> Relay {
    Relay::builder().self_signed().backend(backend.address()).start().await
}

on_h1_and_h2! {
    async fn a_response_begins_before_the_request_has_ended(version) {
        let backend = Backend::builder().on("/echo", |_| Reply::echo()).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/echo").streamed();
        let open = tokio::spawn({
            let body = body.clone();
            async move { body.send(Bytes::from_static(b"first")).await.unwrap() }
        });
        let mut response = call.open().await.into_body();
        open.await.unwrap();
        assert_eq!(next_chunk(&mut response).await.unwrap(), "first");
        assert_eq!(backend.only().ended, None, "the request is still going on");
        for piece in ["second", "third"] {
            body.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(next_chunk(&mut response).await.unwrap(), piece);
        }
        drop(body);
        assert_eq!(next_chunk(&mut response).await, None);
        assert_eq!(backend.only().body, b"firstsecondthird");
    }

    async fn an_answer_that_comes_before_the_body_is_read_comes_through(version) {
        let backend = Backend::builder().on("/x", |_| Reply::status("401 UNAUTHORIZED").early()).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/x").streamed();
        body.try_send(Bytes::from_static(b"first")).unwrap();
        assert_eq!(call.open().await.status(), 401);
        drop(body);
    }

    async fn each_event_arrives_before_the_backend_sends_the_next(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let response = client.call("GET", "/events").open().await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().get("content-encoding").is_none(), "event streams are never compressed");
        let mut events = response.into_body();
        let feed = backend.feed().await;
        for number in 0..50 {
            let event = format!("data: {number}\n\n");
            feed.send(event.clone()).await;
            assert_eq!(next_chunk(&mut events).await.unwrap(), event);
        }
        drop(feed);
        assert_eq!(next_chunk(&mut events).await, None, "a stream that ends well, ends well for the client");
    }

    async fn sovas_stream_is_held_and_its_events_come_through(version) {
        let flask = Flask::start(&["--heartbeat", "0.2"]).await;
        let relay = Relay::builder().self_signed().backend(flask.address()).start().await;
        let client = Client::https(&relay, version);
        let mut events = client.call("GET", "/api/v1/stream?authorization=Bearer%20t").open().await.into_body();
        assert_eq!(next_chunk(&mut events).await.unwrap(), ": connected\n\n");
        let told = client.call("POST", "/api/v1/events").body("hello").send().await;
        assert_eq!(told.json()["streams"], 1);
        let mut text = String::new();
        while !text.contains("data: hello\n\n") || !text.contains(": heartbeat\n\n") {
            text.push_str(std::str::from_utf8(&next_chunk(&mut events).await.unwrap()).unwrap());
        }
    }

    async fn k3_the_clients_going_closes_the_stream_at_the_backend(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let response = client.call("GET", "/events").open().await;
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        drop(response);
        drop(client);
        let gone = Instant::now();
        feed.closed().await;
        assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    }

    async fn k3_the_clients_going_ends_a_request_that_is_not_answered_yet(version) {
        let backend = Backend::builder().on("/silent", |_| Reply::silence()).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let call = client.call("GET", "/silent");
        let asked = tokio::time::timeout(Duration::from_millis(500), call.open());
        assert!(asked.await.is_err());
        drop(client);
        let gone = Instant::now();
        backend
            .wait("the relay to give up", |requests| requests.first().is_some_and(|request| request.abandoned))
            .await;
        assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    }

    async fn k3_the_clients_going_ends_an_upload_at_the_backend(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/x").streamed();
        body.try_send(Bytes::from(vec![0; 1000])).unwrap();
        // The client goes as soon as the first bytes are there, and without ending its body.
        let first_bytes = backend.wait("the first bytes", |requests| {
            requests.first().is_some_and(|request| request.length > 0)
        });
        tokio::select! {
            () = first_bytes => {}
            _ = call.open() => panic!("nothing was to be answered yet"),
        }
        drop(client);
        let gone = Instant::now();
        backend.wait("the relay to give up", |requests| requests[0].abandoned).await;
        assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
        assert_eq!(backend.only().ended, None, "half an upload must not look like a whole one");
        drop(body);
    }

    async fn the_backends_breaking_off_is_seen_by_the_client(version) {
        let backend = Backend::builder()
            .on("/chunked", |_| Reply::feed())
            .on("/length", |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789"))
            .start()
            .await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);

        let mut response = client.call("GET", "/chunked").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("half").await;
        assert_eq!(next_chunk(&mut response).await.unwrap(), "half");
        feed.break_off().await;
        let end = within("the end", response.frame()).await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");

        // An HTTP/2 reset may overtake the bytes before it, and the head too.
        if let Ok(response) = client.call("GET", "/length").try_open().await {
            let end = within("the end", count(&mut response.into_body())).await;
            let (length, _) = end.expect_err("ninety bytes are missing");
            assert!(length <= 10, "{length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_64_mb_upload_takes_no_memory() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    for version in [Version::Http1, Version::Http2] {
        let client = Client::https(&relay, version);
        client.call("POST", "/warm").body(vec![0; WARM as usize]).send().await;
        let before = relay.rss();
        let (call, body) = client.call("POST", "/upload").streamed();
        let mut most = before;
        let sending = async {
            let piece = Bytes::from(vec![0; 64 * 1024]);
            for number in 0..1024 {
                body.send(piece.clone()).await.unwrap();
                if number % 64 == 0 {
                    most = most.max(relay.rss());
                }
            }
            drop(body);
        };
        let (answer, ()) = tokio::join!(call.send(), sending);
        assert_eq!(answer.status, 200);
        assert_eq!(backend.last().length, 64 * MIB);
        println!("{version:?}: {} KiB more", (most - before) / 1024);
        assert!(most - before < GROWTH, "{version:?}: {} KiB more", (most - before) / 1024);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_1_gb_download_takes_no_memory() {
    let backend = Backend::builder()
        .on("/warm", |_| Reply::zeros(WARM))
        .on("/download", |_| Reply::zeros(512 * MIB))
        .start()
        .await;
    let relay = relay(&backend).await;
    // Half of it on each version.
    for version in [Version::Http1, Version::Http2] {
        let client = Client::https(&relay, version);
        for _ in 0..2 {
            client.get("/warm").await;
        }
        let before = relay.rss();
        let mut most = before;
        let mut body = client.call("GET", "/download").open().await.into_body();
        let (mut length, mut measured) = (0, 0);
        while let Some(chunk) = next_chunk(&mut body).await {
            length += chunk.len() as u64;
            if length - measured > 8 * MIB {
                measured = length;
                most = most.max(relay.rss());
            }
        }
        assert_eq!(length, 512 * MIB);
        println!("{version:?}: {} KiB more", (most - before) / 1024);
        assert!(most - before < GROWTH, "{version:?}: {} KiB more", (most - before) / 1024);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_backend_back() {
    let backend = Backend::builder()
        .on("/warm", |_| Reply::zeros(WARM))
        .on("/download", |_| Reply::zeros(512 * MIB))
        .start()
        .await;
    let relay = relay(&backend).await;
    let client = Client::https(&relay, Version::Http1);
    client.get("/warm").await;
    let before = relay.rss();
    let mut slow = Vec::new();
    for version in [Version::Http1, Version::Http2] {
        let client = Client::https(&relay, version);
        slow.push((client.call("GET", "/download").open().await, client));
    }
    // Others are served meanwhile.
    for _ in 0..50 {
        assert_eq!(client.get("/x").await.text(), "ok");
    }
    let more = relay.rss().saturating_sub(before);
    assert!(more < 2 * GROWTH, "{} KiB more", more / 1024);
    assert!(backend.requests().iter().all(|request| !request.abandoned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_live_at_once() {
    const STREAMS: usize = 1000;
    raise_descriptor_limit();
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 2000")
        .start()
        .await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut raw = Raw::tls(&relay).await;
        raw.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        streams.push((raw, backend.feed().await));
    }
    for (raw, feed) in &mut streams {
        assert_eq!(raw::status(&raw.read_head().await), 200);
        feed.send("data: 1\n\n").await;
    }
    for (raw, _) in &mut streams {
        raw.read_until("data: 1\n\n").await;
    }
    assert_eq!(backend.open(), STREAMS);
    // And there is room for others.
    let client = Client::https(&relay, Version::Http2);
    assert_eq!(client.get("/x").await.text(), "ok");
    let (raws, feeds): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
    drop(raws);
    for feed in feeds {
        feed.closed().await;
    }
}
