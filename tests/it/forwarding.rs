//! What goes to the backend and what comes back: heads, bodies, tunnels.

use crate::harness::{Backend, Client, Flask, Raw, Relay, Reply, Version, on_h1_and_h2, raw};

/// A relay with TLS before `backend`, that proxies everything.
async fn relay(backend: &Backend) -> Relay {
    Relay::builder().self_signed().backend(backend.address()).start().await
}

on_h1_and_h2! {
    async fn the_backends_status_headers_and_bytes_come_back_as_they_are(version) {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let sent = bytes.clone();
        let backend = Backend::builder()
            .on("/x", move |_| {
                Reply::ok(sent.clone())
                    .with_status("299 Odd")
                    .header("Set-Cookie", "a=1; Path=/")
                    .header("Set-Cookie", "b=2")
                    .header("X-Two", "first")
                    .header("x-two", "second")
                    .header("Content-Type", "application/x-odd; charset=\"x\"")
                    .header("ETag", "W/\"1\"")
                    .header("Date", "Thu, 01 Jan 2026 00:00:00 GMT")
                    .header("Content-Encoding", "odd")
            })
            .start()
            .await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, version).get("/x").await;
        assert_eq!(answer.status, 299);
        let all = |name: &str| -> Vec<_> {
            answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(all("set-cookie"), ["a=1; Path=/", "b=2"]);
        assert_eq!(all("x-two"), ["first", "second"]);
        assert_eq!(answer.header("content-type"), Some("application/x-odd; charset=\"x\""));
        assert_eq!(answer.header("etag"), Some("W/\"1\""));
        assert_eq!(answer.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
        assert_eq!(answer.header("content-encoding"), Some("odd"));
        assert_eq!(answer.header("content-length"), Some("100000"));
        assert_eq!(answer.body, bytes);
    }
    async fn the_request_goes_up_as_it_is(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        let body: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        Client::https(&relay, version)
            .call("PATCH", "/x/%D8%B9?a=%2F..&b=//&c&authorization=Bearer%20t+t")
            .header("content-type", "application/x-odd")
            .header("authorization", "Bearer t")
            .header("x-two", "first")
            .header("x-two", "second")
            .header("accept-encoding", "br, zstd")
            .body(body.clone())
            .send()
            .await;
        let request = backend.only();
        assert_eq!(request.method, "PATCH");
        assert_eq!(request.target, "/x/%D8%B9?a=%2F..&b=//&c&authorization=Bearer%20t+t");
        assert!(request.head.contains(" HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("content-type"), Some("application/x-odd"));
        assert_eq!(request.header("authorization"), Some("Bearer t"));
        assert_eq!(request.headers("x-two"), ["first", "second"]);
        assert_eq!(request.header("accept-encoding"), Some("br, zstd"));
        assert_eq!(request.header("content-length"), Some("50000"));
        assert_eq!(request.header("transfer-encoding"), None);
        assert_eq!(request.header("accept"), None, "nothing is added that the client did not say");
        assert_eq!(request.header("user-agent"), None);
        assert_eq!(request.body, body);
    }

    async fn a_request_without_a_body_gets_none(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        Client::https(&relay, version).get("/x").await;
        assert_eq!(backend.only().header("transfer-encoding"), None);
        assert!(matches!(backend.only().header("content-length"), None | Some("0")));
    }

    /// RFC 9113 8.2.3: a cookie that HTTP/2 took apart is one field again.
    async fn ranges_and_etags_work_through_the_relay(version) {
        let flask = Flask::start(&[]).await;
        let relay = Relay::builder().self_signed().backend(flask.address()).start().await;
        let client = Client::https(&relay, version);
        let whole = client.get("/attachment/7").await;
        assert_eq!(whole.text(), "attachment 7\n".repeat(1000));
        let etag = whole.header("etag").unwrap();

        let part = client.call("GET", "/attachment/7").header("range", "bytes=13-25").send().await;
        assert_eq!(part.status, 206);
        assert_eq!(part.header("content-range"), Some("bytes 13-25/13000"));
        assert_eq!(part.text(), "attachment 7\n");

        let unchanged = client.call("GET", "/attachment/7").header("if-none-match", etag).send().await;
        assert_eq!(unchanged.status, 304);
        assert_eq!(unchanged.header("etag"), Some(etag));
        assert!(unchanged.body.is_empty());

        let head = client.call("HEAD", "/pfp/7").send().await;
        assert_eq!(head.header("content-length"), Some(&*("pfp 7\n".len() * 1000).to_string()));
        assert!(head.body.is_empty());
    }

    async fn a_connection_that_the_backend_closed_is_no_error_for_the_next_request(version) {
        let backend = Backend::builder()
            .on("/closes", |_| Reply::ok("closing").then_close())
            .start()
            .await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        // One request of a thousand met the end of its connection in a way that nobody told.
        for round in 0..100 {
            assert_eq!(client.get("/closes").await.text(), "closing", "{round}");
            assert_eq!(client.call("POST", "/x").body("body").send().await.text(), "ok", "{round}");
            backend.close_idle().await;
        }
    }

    async fn connections_to_the_backend_are_used_again(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        for _ in 0..10 {
            client.get("/x").await;
        }
        assert_eq!(backend.opened(), 1);
    }

    async fn no_more_connections_are_opened_than_the_backend_takes(version) {
        let backend = Backend::builder().on("/hold", |_| Reply::feed()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nmax_connections = 2\nqueue_for = \"1s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let first = client.call("GET", "/hold").open().await;
        let _second = client.call("GET", "/hold").open().await;
        let feed = backend.feed().await;
        let busy = client.get("/x").await;
        assert_eq!(busy.status, 503);
        assert!(busy.header("retry-after").is_some());
        assert_eq!(backend.opened(), 2);
        drop((feed, first));
        assert_eq!(client.get("/x").await.status, 200, "there is room again");
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(raw.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("body").await;
    assert_eq!(raw.read_response().await.status(), 200);
    assert_eq!(backend.only().body, b"body");
}

#[tokio::test]
async fn expect_100_continue_is_not_answered_where_the_body_is_not_wanted() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[[paths]]\nprefix = \"/x\"\naction = \"block\"")
        .backend(backend.address())
        .start()
        .await;
    let mut raw = Raw::tls(&relay).await;
    raw.send("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(raw::status(&raw.read_head().await), 403);
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn s14_any_other_expectation_is_417() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\n\r\n").await;
    assert_eq!(raw::status(&raw.read_head().await), 417);
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_websocket_tunnels() {
    let backend = Backend::builder().on("/ws", |_| Reply::tunnel("websocket")).start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(
        "GET /ws?token=t HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(raw::header(&head, "upgrade"), Some("websocket"));
    assert!(raw::header(&head, "connection").unwrap().eq_ignore_ascii_case("upgrade"), "{head}");
    for message in ["first", "\u{0}\u{1}second"] {
        raw.send(message).await;
        assert_eq!(raw.read(message.len()).await, message.as_bytes());
    }
    let request = backend.only();
    assert_eq!(request.target, "/ws?token=t");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(backend.open(), 1);
    drop(raw);
    backend.wait_open(0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let backend = Backend::builder().on("/ws", |_| Reply::status("403 FORBIDDEN")).start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send("GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 403);
}

#[tokio::test]
async fn u1_an_answer_that_is_none_is_502() {
    let garbage: &[&[u8]] = &[
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ];
    for bytes in garbage {
        let backend = Backend::builder().on("/x", |_| Reply::raw(*bytes)).start().await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, Version::Http1).get("/x").await;
        assert_eq!(answer.status, 502, "{:?}", String::from_utf8_lossy(bytes));
    }
}
