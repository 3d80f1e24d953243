//! The harness itself: what every other file relies on, without a relay.

use crate::harness::{
    Backend, Client, Flask, Microsocks, Pki, Raw, Reply, Tinyproxy, client::next_chunk, pki, raw,
};

#[tokio::test]
async fn a_backend_records_what_it_is_sent_and_answers_as_told() {
    let backend = Backend::builder()
        .on("/made", |request| Reply::status("201 CREATED").header("X-Query", &request.target))
        .start()
        .await;
    let mut raw = Raw::plain(backend.address()).await;
    let head = "POST /made?q HTTP/1.1\r\nhOST: x\r\nA: 1\r\na:2\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.send(head).await;
    raw.send("3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n".replace(";x", "")).await;
    let response = raw.read_response().await;
    assert_eq!(response.head, "HTTP/1.1 201 CREATED\r\nX-Query: /made?q\r\nContent-Length: 0\r\n\r\n");
    let request = backend.only();
    assert_eq!((request.head.as_str(), request.body.as_slice()), (head, &b"abcde"[..]));
    assert_eq!(request.headers("a"), ["1", "2"]);
    assert_eq!((request.length, request.trailers.as_str(), request.connection), (5, "T: 1\r\n", 1));
    assert!(request.ended.is_some() && !request.abandoned);

    raw.send("GET /other HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(raw.read_response().await.body, b"ok");
    assert_eq!(backend.last().connection, 1);
    assert_eq!(backend.open(), 1);
    backend.close_idle().await;
    assert_eq!(raw.read_to_end().await, b"");
}

#[tokio::test]
async fn a_backend_sends_what_it_is_fed_and_notices_the_end() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let client = Client::http(backend.address());
    let mut response = client.call("GET", "/events").open().await;
    let feed = backend.feed().await;
    feed.send("data: 1\n\n").await;
    assert_eq!(next_chunk(response.body_mut()).await.unwrap(), "data: 1\n\n");
    drop(response);
    feed.closed().await;
    backend.wait("the end", |requests| requests[0].abandoned).await;
    backend.wait_open(0).await;
}

#[tokio::test]
async fn a_backend_echoes_before_the_request_has_ended() {
    let backend = Backend::builder().on("/echo", |_| Reply::echo()).start().await;
    let client = Client::http(backend.address());
    let (call, body) = client.call("POST", "/echo").streamed();
    body.send("first".into()).await.unwrap();
    let mut response = call.open().await.into_body();
    assert_eq!(next_chunk(&mut response).await.unwrap(), "first");
    body.send("second".into()).await.unwrap();
    assert_eq!(next_chunk(&mut response).await.unwrap(), "second");
    drop(body);
    assert_eq!(next_chunk(&mut response).await, None);
}

#[tokio::test]
async fn a_certificate_of_the_tests_own_authority_is_believed_by_its_clients_alone() {
    let (pki, other) = (Pki::new(), Pki::new());
    let backend = Backend::builder().tls(pki.server_config(&["localhost", "127.0.0.1"])).start().await;
    for name in ["localhost", "127.0.0.1"] {
        let config = pki::client_config(pki.root().as_bytes(), &[]);
        let stream = raw::handshake(backend.address(), config, name).await.unwrap();
        let mut raw = Raw::over(stream);
        raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(raw.read_response().await.body, b"ok");
    }
    let stranger = pki::client_config(other.root().as_bytes(), &[]);
    assert!(raw::handshake(backend.address(), stranger, "localhost").await.is_err());
}

#[tokio::test]
async fn flask_answers_as_sova_does() {
    let flask = Flask::start(&["--prefix", "abc"]).await;
    let client = Client::http(flask.address());
    assert_eq!(client.get("/abc/health").await.json()["status"], "ok");
    let redirect = client.get("/abc/page").await;
    let address = format!("http://localhost:{}/abc/page/", flask.address().port());
    assert_eq!(redirect.header("location"), Some(&*address));
    for number in 1..=11 {
        let answer = client.call("POST", "/abc/api/v1/signup").send().await;
        assert_eq!(answer.status, if number <= 10 { 201 } else { 429 });
    }
    let seen = flask.seen().await;
    assert_eq!(seen.len(), 13);
    assert_eq!((&*seen[0].method, &*seen[0].path), ("GET", "/abc/health"));
    assert_eq!(flask.seen().await.len(), 0);
}

#[tokio::test]
async fn the_proxies_are_there() {
    Microsocks::start(None).await;
    Microsocks::start(Some(("user", "password"))).await;
    Tinyproxy::start(None).await;
    let proxy = Tinyproxy::start(Some(("user", "password"))).await;
    let mut raw = Raw::plain(proxy.address()).await;
    raw.send("GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(raw::status(&raw.read_head().await), 407);
}
