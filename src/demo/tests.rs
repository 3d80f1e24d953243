//! Each route over a real socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A running backend; it ends with the test's runtime.
async fn start() -> SocketAddr {
    let backend = DemoBackend::bind(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
    let address = backend.local_addr();
    tokio::spawn(backend.run());
    address
}

/// The whole answer to `head` and `body` on a connection of its own: its head, and its body.
async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let head = format!("{head}\r\nHost: demo\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("it reads");
    socket.write_all(body).await.expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("it answers");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), answer.split_off(end + 4))
}

async fn json_of(address: SocketAddr, head: &str, body: &[u8]) -> (String, Value) {
    let (head, body) = exchange(address, head, body).await;
    (head, serde_json::from_slice(&body).expect("JSON"))
}

/// Reads from `socket` until `wanted` has come.
async fn read_until(socket: &mut TcpStream, wanted: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    tokio::time::timeout(Duration::from_secs(5), async {
        while !seen.contains(wanted) {
            let read = socket.read(&mut buffer).await.expect("it is open");
            assert_ne!(read, 0, "ended before {wanted:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    })
    .await
    .unwrap_or_else(|_| panic!("no {wanted:?} in time"));
    seen
}

async fn open_stream(address: SocketAddr, more: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let head = format!("GET /api/v1/stream?authorization=x HTTP/1.1\r\nHost: demo\r\n{more}\r\n");
    socket.write_all(head.as_bytes()).await.expect("it reads");
    socket
}

#[tokio::test]
async fn the_page_is_html_and_names_no_other_host() {
    let (head, body) = exchange(start().await, "GET / HTTP/1.1", b"").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'self' 'unsafe-inline'"), "{head}");
    let page = String::from_utf8(body).expect("UTF-8");
    for id in ["state", "events", "protocol", "secure", "upload-result", "download-result"] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[tokio::test]
async fn the_index_tells_what_arrived_but_no_secret() {
    let head = "GET /api/v1/?token=canary HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer canary\r\nCookie: canary";
    let (_, index) = json_of(start().await, head, b"").await;
    assert_eq!(index["request"]["method"], "GET");
    assert_eq!(index["request"]["path"], "/api/v1/");
    assert_eq!(index["request"]["client"], "127.0.0.1");
    let headers = index["request"]["headers"].as_array().expect("a list");
    assert!(headers.contains(&json!("x-forwarded-for: 192.0.2.7")), "{headers:?}");
    assert!(!index.to_string().contains("canary"), "{index}");
    let routes = index["routes"].as_array().expect("a list");
    assert_eq!(routes.len(), ROUTES.len());
}

#[tokio::test]
async fn the_stream_has_an_event_at_once_and_another_a_second_later() {
    let address = start().await;
    let mut socket = open_stream(address, "").await;
    let begun = Instant::now();
    let first = read_until(&mut socket, "\"n\":1").await;
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert!(first.contains("content-type: text/event-stream"), "{first}");
    assert!(first.contains("retry: 1000\n\nid: 1\ndata: {"), "{first}");
    let second = read_until(&mut socket, "id: 2\n").await;
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert!(!second.contains("retry:"), "{second}");
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_was_seen() {
    let mut socket = open_stream(start().await, "Last-Event-ID: 41\r\n").await;
    read_until(&mut socket, "id: 42\n").await;
}

#[tokio::test]
async fn an_ended_stream_is_not_counted() {
    let address = start().await;
    let mut first = open_stream(address, "").await;
    read_until(&mut first, "\"streams_open\":1").await;
    let second = open_stream(address, "").await;
    read_until(&mut first, "\"streams_open\":2").await;
    drop(second);
    read_until(&mut first, "\"streams_open\":1").await;
}

#[tokio::test]
async fn the_echo_counts_and_hashes_what_it_reads() {
    let address = start().await;
    for method in ["POST", "PUT", "PATCH"] {
        let head = format!("{method} /api/v1/echo HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 3");
        let (head, echo) = json_of(address, &head, b"abc").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(echo["bytes"], 3);
        assert_eq!(echo["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(echo["content_type"], "text/plain");
        assert!(echo["seconds"].is_f64());
    }
    let head = "POST /api/v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked";
    let (_, echo) = json_of(address, head, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").await;
    assert_eq!(echo["bytes"], 3);
    assert_eq!(echo["content_type"], Value::Null);
}

#[tokio::test]
async fn a_body_that_is_none_is_refused() {
    let head = "POST /api/v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked";
    let (head, _) = exchange(start().await, head, b"zz\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn a_download_has_its_length_and_its_bytes() {
    let address = start().await;
    let (head, body) = exchange(address, "GET /api/v1/download?size=200000 HTTP/1.1", b"").await;
    assert!(head.contains("content-length: 200000"), "{head}");
    assert_eq!(body.len(), 200_000);
    assert_eq!(body[199_999], (199_999 % 251) as u8);
    let (head, _) = exchange(address, "GET /api/v1/download?size=17GiB HTTP/1.1", b"").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn a_head_has_the_head_alone() {
    let address = start().await;
    for (path, wanted) in [
        ("/", "content-length: "),
        ("/icon.svg", "content-type: image/svg+xml"),
        ("/api/v1/", "content-type: application/json"),
        ("/api/v1/stream", "content-type: text/event-stream"),
        ("/api/v1/download?size=1GiB", "content-length: 1073741824"),
        ("/health", "content-type: application/json"),
    ] {
        let (head, body) = exchange(address, &format!("HEAD {path} HTTP/1.1"), b"").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(head.contains(wanted), "{path}: {head}");
        assert_eq!(body, b"", "{path}");
    }
}

#[tokio::test]
async fn health_is_ok_and_the_rest_is_not_found() {
    let address = start().await;
    let (_, health) = json_of(address, "GET /health HTTP/1.1", b"").await;
    assert_eq!(health, json!({ "status": "ok" }));
    for path in ["/nothing", "/api/v1/nothing", "/health/", "/api/v1/stream/x"] {
        let (head, body) = json_of(address, &format!("GET {path} HTTP/1.1"), b"").await;
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
        assert_eq!(body, json!({ "error": "not found" }));
    }
    let (head, _) = json_of(address, "GET /api/v1/echo HTTP/1.1", b"").await;
    assert!(head.starts_with("HTTP/1.1 405") && head.contains("allow: POST, PUT, PATCH"), "{head}");
}

#[tokio::test]
async fn dropping_the_backend_ends_its_streams() {
    let backend = DemoBackend::bind(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
    let address = backend.local_addr();
    let running = tokio::spawn(backend.run());
    let mut socket = open_stream(address, "").await;
    read_until(&mut socket, "id: 1\n").await;
    running.abort();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(2), socket.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream is still open");
    assert!(TcpStream::connect(address).await.is_err());
}
