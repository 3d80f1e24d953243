//! S9: what comes behind a request before it is answered.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::lab::{Lab, assert_is_canonical};
use crate::harness::{Backend, Raw, Relay, Reply, raw, within};

const FIRST: &str = "GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
const BLOCKED: &str = "GET /api/v1/blocked HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn s9_each_request_takes_its_own_way_through_the_rules() {
    let mut lab = Lab::start().await;
    let upgrade = |lines: &str| format!("GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    for first in [
        FIRST.to_owned(),
        upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        upgrade("Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        upgrade("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        upgrade("Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n"),
        upgrade("Upgrade: websocket\r\n"),
        upgrade("Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"),
    ] {
        lab.takes(format!("{first}{BLOCKED}"), &[200, 403], &["/api/v1/x"]).await;
        lab.takes(format!("{BLOCKED}{first}{BLOCKED}{FIRST}"), &[403, 200, 403, 200], &["/api/v1/x"; 2])
            .await;
    }
    let many = format!("{FIRST}{BLOCKED}").repeat(50);
    lab.takes(many, &[200, 403].repeat(50), &["/api/v1/x"; 50]).await;
}

#[tokio::test]
async fn s9_what_is_no_request_behind_one_is_refused_after_its_answer() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    for (behind, status) in [("GET / HTTP/1.1\n\r\n", 400), ("CONNECT a:1 HTTP/1.1\r\n\r\n", 405)] {
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!("{FIRST}{behind}")).await;
        assert_eq!(raw.read_response().await.status(), 200, "{behind:?}");
        let refused = raw.read_response().await;
        assert_eq!((refused.status(), refused.header("connection")), (status, Some("close")), "{behind:?}");
        assert!(raw.read_to_end().await.is_empty());
    }
}

#[tokio::test]
async fn s9_nothing_raw_is_passed_before_a_101() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::builder().self_signed().backend(backend.local_addr().unwrap()).start().await;
    let switch = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = Raw::tls(&relay).await;
    client.send(format!("{switch}{BLOCKED}")).await;
    let (mut backend, head) = loop {
        // The first connection may be the relay's look at its start, on which nothing comes.
        let (mut stream, _) = within("the relay to connect", backend.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        if !head.is_empty() {
            break (stream, String::from_utf8(head).unwrap());
        }
    };
    assert_eq!(head.matches("HTTP/1.1").count(), 1, "{head}");
    let early = tokio::time::timeout(Duration::from_millis(500), backend.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    backend
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw::status(&client.read_head().await), 101);
    // Now it is no HTTP any more, and both sides know.
    let mut passed = vec![0; BLOCKED.len()];
    within("what the client sent", backend.read_exact(&mut passed)).await.unwrap();
    assert_eq!(passed, BLOCKED.as_bytes());
}

#[tokio::test]
async fn s9_k3_a_client_that_leaves_is_seen_whatever_it_has_sent_behind_its_request() {
    let backend = Backend::builder().on("/api/v1/silent", |_| Reply::silence()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let silent = "GET /api/v1/silent HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (number, behind) in
        ["", FIRST, "GET / HT", "\r\n", "x\n\n", &FIRST.repeat(100)].into_iter().enumerate()
    {
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!("{silent}{behind}")).await;
        backend.wait("the request", |requests| requests.len() == number + 1).await;
        let left = Instant::now();
        drop(raw);
        backend.wait("the relay to give up", |requests| requests[number].abandoned).await;
        assert!(left.elapsed() < Duration::from_secs(1), "{behind:?}: {:?}", left.elapsed());
    }
    for request in backend.requests() {
        assert_is_canonical(&request, "silent");
    }
}
