//! A proxy between relay and backend: real ones, with and without credentials.

use std::net::SocketAddr;

use crate::harness::{
    Backend, Client, Microsocks, Pki, Relay, Reply, Tinyproxy, Version, client::next_chunk,
    relay::RelayBuilder,
};

fn through(proxy: &str) -> RelayBuilder {
    Relay::builder()
        .self_signed()
        .toml("[[paths]]\nprefix = \"/*\"\naction = \"proxy\"")
        .toml(&format!("[upstream_proxy]\nenabled = true\nurl = \"{proxy}\""))
}

fn url(scheme: &str, name: &str, address: SocketAddr) -> String {
    format!("[backend]\nurl = \"{scheme}://{name}:{}\"", address.port())
}

#[tokio::test]
async fn socks5_resolves_here_and_socks5h_there() {
    let backend = Backend::start().await;
    for credentials in [None, Some(("us er", "p@ss:w/rd"))] {
        let proxy = Microsocks::start(credentials).await;
        let user = if credentials.is_some() { "us%20er:p%40ss%3Aw%2Frd@" } else { "" };
        for (scheme, seen) in [("socks5", "127.0.0.1"), ("socks5h", "localhost")] {
            let relay = through(&format!("{scheme}://{user}{}", proxy.address()))
                .toml(&url("http", "localhost", backend.address()))
                .start()
                .await;
            let answer = Client::https(&relay, Version::Http2).call("POST", "/x?y").body("body").send().await;
            assert_eq!(answer.text(), "ok", "{scheme}");
            assert_eq!((&*backend.last().target, &*backend.last().body), ("/x?y", &b"body"[..]));
            proxy.connected_to(&format!("{seen}:{}", backend.address().port())).await;
        }
    }
}

#[tokio::test]
async fn an_http_proxy_gets_the_absolute_form_of_a_plain_request() {
    let backend = Backend::start().await;
    for credentials in [None, Some(("user", "password"))] {
        let proxy = Tinyproxy::start(credentials).await;
        let user = if credentials.is_some() { "user:password@" } else { "" };
        let relay = through(&format!("http://{user}{}", proxy.address()))
            .toml(&url("http", "127.0.0.1", backend.address()))
            .start()
            .await;
        let client = Client::https(&relay, Version::Http1);
        assert_eq!(client.get("/x?y=1").await.text(), "ok");
        let request = backend.last();
        assert_eq!(request.target, "/x?y=1");
        assert!(request.headers("via")[0].contains("tinyproxy"), "{}", request.head);
        assert_eq!(request.header("proxy-authorization"), None);
        proxy.asked(&format!("GET http://127.0.0.1:{}/x?y=1", backend.address().port())).await;
    }
}

#[tokio::test]
async fn an_https_backend_is_reached_by_connect_and_verified() {
    let pki = Pki::new();
    let backend = Backend::builder()
        .tls(pki.server_config(&["localhost"]))
        .on("/events", |_| Reply::events())
        .start()
        .await;
    let proxy = Tinyproxy::start(Some(("user", "password"))).await;
    let socks = Microsocks::start(None).await;
    for proxy in
        [format!("http://user:password@{}", proxy.address()), format!("socks5h://{}", socks.address())]
    {
        let relay = through(&proxy)
            .toml(&url("https", "localhost", backend.address()))
            .toml("[backend]\nca_file = \"{dir}/ca.pem\"")
            .file("ca.pem", pki.root())
            .start()
            .await;
        let client = Client::https(&relay, Version::Http2);
        assert_eq!(client.get("/x").await.text(), "ok");
        assert_eq!(backend.last().target, "/x");
        assert_eq!(backend.last().header("via"), None, "nobody on the way reads it");
        let mut events = client.call("GET", "/events").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        assert_eq!(next_chunk(&mut events).await.unwrap(), "data: 1\n\n");
    }
    proxy.asked(&format!("CONNECT localhost:{}", backend.address().port())).await;
}

#[tokio::test]
async fn an_https_backend_that_nobody_vouches_for_is_502() {
    let (pki, other) = (Pki::new(), Pki::new());
    for (names, root) in [(&["localhost"][..], &other), (&["other.example"], &pki)] {
        let backend = Backend::builder().tls(pki.server_config(names)).start().await;
        let relay = Relay::builder()
            .self_signed()
            .toml("[[paths]]\nprefix = \"/*\"\naction = \"proxy\"")
            .toml(&url("https", "localhost", backend.address()))
            .toml("[backend]\nca_file = \"{dir}/ca.pem\"")
            .file("ca.pem", root.root())
            .start()
            .await;
        let answer = Client::https(&relay, Version::Http1).get("/api/v1/x").await;
        answer.assert_error(502, "backend unavailable");
        assert_eq!(backend.requests().len(), 0);
    }
}

#[tokio::test]
async fn wrong_credentials_are_502_and_in_no_log() {
    let backend = Backend::start().await;
    let socks = Microsocks::start(Some(("user", "password"))).await;
    let http = Tinyproxy::start(Some(("user", "password"))).await;
    for (proxy, scheme) in [
        (format!("socks5://user:canary@{}", socks.address()), "http"),
        (format!("socks5://{}", socks.address()), "http"),
        (format!("http://{}", http.address()), "http"),
        (format!("http://user:canary@{}", http.address()), "https"),
        (format!("http://{}", http.address()), "https"),
    ] {
        let relay = through(&proxy)
            .toml(&url(scheme, "127.0.0.1", backend.address()))
            .toml("[log]\nlevel = \"trace\"")
            .start()
            .await;
        let answer = Client::https(&relay, Version::Http1).get("/api/v1/x").await;
        answer.assert_error(502, "backend unavailable");
        relay.log_with(&["access", "status=502"]).await;
        let logs = relay.logs().join("\n");
        assert!(!logs.contains("canary") && !logs.contains("Y2FuYXJ5"), "{proxy}: {logs}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_proxy_that_is_down_is_502() {
    let relay = through(&format!("socks5://{}", crate::harness::peers::free_address()))
        .toml("[backend]\nurl = \"http://127.0.0.1:1\"")
        .start()
        .await;
    let answer = Client::https(&relay, Version::Http1).get("/api/v1/x").await;
    answer.assert_error(502, "backend unavailable");
}

#[tokio::test]
async fn a_proxy_that_is_not_enabled_is_not_used() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[upstream_proxy]\nenabled = false\nurl = \"socks5://127.0.0.1:1\"")
        .backend(backend.address())
        .start()
        .await;
    assert_eq!(Client::https(&relay, Version::Http1).get("/x").await.text(), "ok");
}

#[tokio::test]
async fn a_407_that_no_proxy_can_have_said_is_the_backends_own() {
    let denied = "407 PROXY AUTHENTICATION REQUIRED";
    let backend = Backend::builder().on("/x", move |_| Reply::ok("denied").with_status(denied)).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    for version in [Version::Http1, Version::Http2] {
        let answer = Client::https(&relay, version).get("/x").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (407, "denied"));
    }
}
