//! Whose word about the client's address is taken.

use crate::harness::{Backend, Client, Raw, Relay, Version, on_h1_and_h2, relay::field};

/// The address that the backend is told, and the access log, for one request with `headers`.
async fn told(relay: &Relay, client: &Client, backend: &Backend, headers: &[(&str, &str)]) -> String {
    let path = format!("/number-{}", backend.requests().len());
    let mut call = client.call("GET", &path);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    assert_eq!(call.send().await.status, 200);
    let told = backend.last().header("x-forwarded-for").unwrap().to_owned();
    let line = relay.access(&path).await;
    assert_eq!(field(&line, "client").as_deref(), Some(&*told), "{line}");
    told
}

on_h1_and_h2! {
    async fn h2_nobody_is_believed_at_the_edge(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let claims = [("X-Forwarded-For", "203.0.113.9"), ("CF-Connecting-IP", "203.0.113.9")];
        assert_eq!(told(&relay, &client, &backend, &claims).await, "127.0.0.1");
    }

    async fn x_forwarded_for_is_read_from_the_right(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"198.51.100.0/24\", \"2001:db8:1::/48\"]")
            .start()
            .await;
        let client = Client::https(&relay, version);
        for (header, address) in [
            ("203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9, 198.51.100.7", "203.0.113.9"),
            ("6.6.6.6,203.0.113.9 ,2001:db8:1::7 , 127.0.0.5", "203.0.113.9"),
            ("2001:db8:2::9", "2001:db8:2::9"),
            // What is no address ends the chain of those who are believed.
            ("203.0.113.9, unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            let headers = [("X-Forwarded-For", header)];
            assert_eq!(told(&relay, &client, &backend, &headers).await, address, "{header:?}");
        }
        // Two lines are one list.
        let headers = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9")];
        assert_eq!(told(&relay, &client, &backend, &headers).await, "203.0.113.9");
        // Only the configured header counts.
        assert_eq!(told(&relay, &client, &backend, &[("CF-Connecting-IP", "203.0.113.9")]).await, "127.0.0.1");
        assert_eq!(told(&relay, &client, &backend, &[("X-Real-IP", "203.0.113.9")]).await, "127.0.0.1");
    }

    async fn another_header_can_be_configured(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.1\"]\nclient_ip_header = \"CF-Connecting-IP\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let headers = [("CF-Connecting-IP", "2001:db8::9"), ("X-Forwarded-For", "6.6.6.6")];
        assert_eq!(told(&relay, &client, &backend, &headers).await, "2001:db8::9");
        assert_eq!(told(&relay, &client, &backend, &[("X-Forwarded-For", "6.6.6.6")]).await, "127.0.0.1");
        assert_eq!(told(&relay, &client, &backend, &[("CF-Connecting-IP", "x")]).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn behind_another_proxy_on_the_same_machine_its_word_is_taken() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    let client = Client::http(relay.http());
    let headers = [("X-Forwarded-For", "6.6.6.6, 203.0.113.9")];
    assert_eq!(told(&relay, &client, &backend, &headers).await, "203.0.113.9");
}

#[tokio::test]
async fn a_peer_outside_the_list_is_not_believed() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[server]\ntrusted_proxies = [\"192.0.2.0/24\"]")
        .start()
        .await;
    let client = Client::http(relay.http());
    let headers = [("X-Forwarded-For", "203.0.113.9")];
    assert_eq!(told(&relay, &client, &backend, &headers).await, "127.0.0.1");
}

/// `PROXY` headers, and the client's address that they give.
fn proxy_headers() -> Vec<(Vec<u8>, &'static str)> {
    let v2 = |command: u8, family: u8, addresses: &[u8]| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x20 | command, family]);
        header.extend((addresses.len() as u16).to_be_bytes());
        header.extend(addresses);
        header
    };
    let ip4 = [203, 0, 113, 9, 127, 0, 0, 1, 0x10, 0x00, 0x01, 0xbb];
    let mut ip4_and_more = ip4.to_vec();
    // A TLV of a type that nobody knows.
    ip4_and_more.extend([0xea, 0x00, 0x03, b'a', b'b', b'c']);
    let mut ip6 = Vec::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets());
    ip6.extend(std::net::Ipv6Addr::LOCALHOST.octets());
    ip6.extend([0x10, 0x00, 0x01, 0xbb]);
    vec![
        (b"PROXY TCP4 203.0.113.9 127.0.0.1 4096 443\r\n".to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 ::1 4096 443\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(1, 0x11, &ip4), "203.0.113.9"),
        (v2(1, 0x11, &ip4_and_more), "203.0.113.9"),
        (v2(1, 0x21, &ip6), "2001:db8::9"),
        (v2(0, 0x00, &[]), "127.0.0.1"),
    ]
}

const PROXY_PROTOCOL: &str = "[server]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1/32\"]";

#[tokio::test]
async fn the_proxy_protocol_gives_the_clients_address() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).toml(PROXY_PROTOCOL).start().await;
    for (header, address) in proxy_headers() {
        let mut raw = Raw::plain(relay.http()).await;
        // Byte by byte, as a network may deliver it.
        for byte in &header {
            raw.send([*byte]).await;
        }
        raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.read_response().await.status(), 200);
        assert_eq!(backend.last().header("x-forwarded-for"), Some(address));
    }
}

#[tokio::test]
async fn the_proxy_protocol_goes_before_the_handshake() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).toml(PROXY_PROTOCOL).start().await;
    for (header, address) in proxy_headers() {
        let mut stream = tokio::net::TcpStream::connect(relay.https()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(relay.tls_client(&["http/1.1"]));
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(backend.last().header("x-forwarded-for"), Some(address));
    }
}

#[tokio::test]
async fn without_a_whole_proxy_header_there_is_no_request() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml(PROXY_PROTOCOL)
        .toml("[limits]\nhandshake = \"1s\"")
        .start()
        .await;
    for start in [
        &b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"PROXY TCP4 203.0.113.9 127.0.0.1 4096 443\nGET /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PROXY TCP4 203.0.113.999 127.0.0.1 4096 443\r\nGET /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PROXY TCP4 ",
        b"\r\n\r\n\0\r\nQUIT\n\x21",
    ] {
        let mut raw = Raw::plain(relay.http()).await;
        raw.send(start).await;
        raw.read_to_end().await;
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_proxy_header_of_a_stranger_is_no_request() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[server]\nproxy_protocol = true\ntrusted_proxies = [\"192.0.2.1/32\"]")
        .start()
        .await;
    let mut raw = Raw::plain(relay.http()).await;
    raw.send("PROXY TCP4 203.0.113.9 127.0.0.1 4096 443\r\nGET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&raw.read_to_end().await).into_owned();
    assert!(!answer.contains(" 200 "), "{answer}");
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[server]\nhost = \"::\"")
        .backend(backend.address())
        .start()
        .await;
    let address = ([127, 0, 0, 1], relay.https().port()).into();
    let client = Client::https_at(&relay, Version::Http1, address);
    assert_eq!(told(&relay, &client, &backend, &[]).await, "127.0.0.1");
}

#[tokio::test]
async fn what_a_client_puts_before_its_address_does_not_matter() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
        .start()
        .await;
    for (header, address) in [
        ("é, 203.0.113.9".as_bytes(), "203.0.113.9"),
        (b"\xe9, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (b"junk, 203.0.113.9", "203.0.113.9"),
        (b"junk, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9, é".as_bytes(), "127.0.0.1"),
    ] {
        let mut raw = Raw::plain(relay.http()).await;
        let request =
            [b"GET /x HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: ", header, b"\r\n\r\n"].concat();
        raw.send(request).await;
        assert_eq!(raw.read_response().await.status(), 200);
        let told = backend.last().header("x-forwarded-for").map(str::to_owned);
        assert_eq!(told.as_deref(), Some(address), "{:?}", String::from_utf8_lossy(header));
    }
}
