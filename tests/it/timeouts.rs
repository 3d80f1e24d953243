//! Nothing waits for ever: attacks.md K1, K2, and the limits at the edge.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, Raw, Relay, Reply,
    client::{count, next_chunk},
    on_h1_and_h2,
    peers::{BlackHole, free_address},
    within,
};

on_h1_and_h2! {
    async fn k1_a_backend_that_refuses_is_502_at_once(version) {
        let nobody = free_address();
        let relay = Relay::builder()
            .self_signed()
            .backend(nobody)
            .toml("[backend]\nretry_for = \"0s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let asked = Instant::now();
        client.get("/api/v1/x").await.assert_error(502, "backend unavailable");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

        // Back as soon as the backend is.
        let _backend = Backend::builder().at(nobody).start().await;
        assert_eq!(client.get("/api/v1/x").await.status, 200);
    }

    async fn k1_a_backend_that_drops_packets_is_504_at_the_connect_limit(version) {
        let hole = BlackHole::new().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(hole.address())
            .toml("[backend]\nconnect_timeout = \"1s\"\nretry_for = \"0s\"")
            .start()
            .await;
        let asked = Instant::now();
        let answer = Client::https(&relay, version).get("/api/v1/x").await;
        answer.assert_error(504, "backend timeout");
        assert!((1..4).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    }

    async fn k2_a_silent_backend_is_504_at_the_response_limit(version) {
        let backend = Backend::builder().on("/api/v1/x", |_| Reply::silence()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nresponse_timeout = \"1s\"")
            .start()
            .await;
        let asked = Instant::now();
        let answer = Client::https(&relay, version).call("POST", "/api/v1/x").body("x").send().await;
        answer.assert_error(504, "backend timeout");
        assert!((1..4).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
        backend.wait("the relay to give up", |requests| requests[0].abandoned).await;
    }

    async fn k2_a_body_that_stalls_is_broken_off_and_a_stream_is_not(version) {
        let backend = Backend::builder()
            .on("/events", |_| Reply::events())
            .on("/body", |_| Reply::feed())
            .start()
            .await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nidle_timeout = \"1s\"\nresponse_timeout = \"1s\"\n[limits]\nidle_body = \"1s\"\nidle_connection = \"1s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut events = client.call("GET", "/events").open().await.into_body();
        let stream = backend.feed().await;
        stream.send("data: 1\n\n").await;

        let mut body = client.call("GET", "/body").open().await.into_body();
        let stalled = backend.feed().await;
        stalled.send("half").await;
        let (length, _) = within("the end", count(&mut body)).await.expect_err("the body has no end");
        assert_eq!(length, 4);
        stalled.closed().await;

        // That took longer than every limit.
        stream.send("data: 2\n\n").await;
        assert_eq!(next_chunk(&mut events).await.unwrap(), "data: 1\n\n");
        assert_eq!(next_chunk(&mut events).await.unwrap(), "data: 2\n\n");
    }

    async fn k2_a_backend_that_may_pause_longer_than_a_client_does(version) {
        let backend = Backend::builder().on("/body", |_| Reply::feed()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nidle_timeout = \"30s\"\n[limits]\nidle_body = \"1s\"\nidle_connection = \"1s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/body").open().await.into_body();
        let feed = backend.feed().await;
        for piece in ["first", "second", "third"] {
            feed.send(piece).await;
            assert_eq!(next_chunk(&mut body).await.unwrap(), piece);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        drop(feed);
        assert_eq!(next_chunk(&mut body).await, None);
    }
}

#[tokio::test]
async fn k1_a_backend_without_an_address_is_502() {
    let relay = Relay::start(
        "[backend]\nurl = \"http://nobody.invalid:1\"\n[[paths]]\nprefix = \"/*\"\naction = \"proxy\"",
    )
    .await;
    let answer = Client::http(relay.http()).get("/api/v1/x").await;
    answer.assert_error(502, "backend unavailable");
}

#[tokio::test]
async fn l1_an_idle_connection_is_closed() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nidle_connection = \"1s\"")
        .start()
        .await;
    let mut raw = Raw::tls(&relay).await;
    raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_response().await.body, b"ok");
    let asked = Instant::now();
    raw.read_to_end().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_room() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).toml("[limits]\nconnections = 2").start().await;
    let first = Raw::plain(relay.http()).await;
    let mut second = Raw::plain(relay.http()).await;
    second.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(second.read_response().await.body, b"ok");
    drop(first);
    assert_eq!(Client::http(relay.http()).get("/x").await.text(), "ok");
    drop(second);
    for _ in 0..10 {
        assert_eq!(Client::http(relay.http()).get("/x").await.text(), "ok");
    }
}

#[tokio::test]
async fn one_connection_at_a_time_is_enough_for_all_ports() {
    let relay = Relay::builder()
        .self_signed()
        .toml("[server]\nhttp_port = \"auto\"\n[limits]\nconnections = 1")
        .start()
        .await;
    let redirected = async || {
        let mut raw = Raw::plain(relay.redirect()).await;
        raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        raw.read_head().await
    };
    for _ in 0..5 {
        let open = Raw::tls(&relay).await;
        // One is one, and whoever waits at the other port has his turn.
        let waiting = redirected();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
        drop(open);
        assert!(waiting.await.starts_with("HTTP/1.1 30"));
    }
}
