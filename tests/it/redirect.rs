//! Port 80: to HTTPS, under a name that is ours (attacks.md R1).

use crate::harness::{Backend, Pki, Raw, Relay, raw::RawResponse};

async fn relay() -> Relay {
    Relay::builder()
        .toml("[server]\nhttp_port = \"auto\"")
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"localhost\", \"chat.lan\", \"127.0.0.1\"]\nstorage = \"{dir}/storage\"")
        .start()
        .await
}

async fn ask(relay: &Relay, head: &str) -> RawResponse {
    let mut raw = Raw::plain(relay.redirect()).await;
    raw.send(format!("{head}\r\n\r\n")).await;
    raw.read_response().await
}

#[tokio::test]
async fn get_and_head_are_301_and_the_rest_308() {
    let relay = relay().await;
    let location = format!("https://localhost:{}/x/%D8%B9?y=1", relay.https().port());
    for (method, status) in
        [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308), ("DELETE", 308), ("OPTIONS", 308)]
    {
        let mut raw = Raw::plain(relay.redirect()).await;
        raw.send(format!("{method} /x/%D8%B9?y=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let head = raw.read_head().await;
        assert_eq!(crate::harness::raw::status(&head), status, "{method}");
        assert_eq!(crate::harness::raw::header(&head, "location"), Some(&*location), "{method}");
    }
}

#[tokio::test]
async fn each_configured_name_is_kept() {
    let relay = relay().await;
    let port = relay.https().port();
    for (host, name) in [
        ("chat.lan", "chat.lan"),
        ("CHAT.lan:80", "chat.lan"),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost:8080", "localhost"),
    ] {
        let response = ask(&relay, &format!("GET / HTTP/1.1\r\nHost: {host}")).await;
        assert_eq!(response.header("location"), Some(&*format!("https://{name}:{port}/")), "{host}");
    }
}

#[tokio::test]
async fn r1_the_location_never_names_whom_the_client_made_up() {
    let relay = relay().await;
    let ours = format!("https://localhost:{}/", relay.https().port());
    for head in [
        "GET / HTTP/1.1\r\nHost: evil.example",
        "GET / HTTP/1.1\r\nHost: localhost@evil.example",
        "GET / HTTP/1.1\r\nHost: evil.example/localhost",
        "GET / HTTP/1.1\r\nHost: localhost.evil.example",
        "GET / HTTP/1.1\r\nHost: localhost:80@evil.example",
        "GET / HTTP/1.1\r\nHost: ",
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET //evil.example/%2f.. HTTP/1.1\r\nHost: localhost",
        "GET //evil.example HTTP/1.1\r\nHost: evil.example",
        "GET /\\evil.example HTTP/1.1\r\nHost: localhost",
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example",
        "GET /%0d%0aLocation:%20//evil.example HTTP/1.1\r\nHost: localhost",
    ] {
        let response = ask(&relay, head).await;
        match response.header("location") {
            Some(location) => {
                assert!([301, 308].contains(&response.status()), "{head}: {}", response.head);
                assert!(location.starts_with(&ours), "{head}: {location}");
            }
            None => assert!([400, 421].contains(&response.status()), "{head}: {}", response.head),
        }
        assert_eq!(
            response.head.to_ascii_lowercase().matches("\r\nlocation:").count(),
            usize::from(response.header("location").is_some())
        );
    }
}

#[tokio::test]
async fn r1_no_host_with_no_target_leads_elsewhere() {
    let relay = relay().await;
    let port = relay.https().port();
    // The certificate of `localhost` is for its addresses too.
    let ours = ["localhost", "chat.lan", "127.0.0.1", "[::1]"].map(|name| format!("https://{name}:{port}/"));
    let hosts = [
        "localhost",
        "evil.example",
        "evil.example:80",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost:80@evil.example",
        "localhost:443:evil.example",
        "localhost.",
        "localhost..",
        ".localhost",
        "localhost.evil.example",
        "evil.example.localhost",
        "localhost/evil.example",
        "evil.example/localhost",
        "localhost\\evil.example",
        "localhost%2eevil.example",
        "localhost#evil.example",
        "localhost?evil.example",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost\tevil.example",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::1%25lo]",
        "[evil.example]",
        "127.1",
        "0x7f.1",
        "2130706433",
        "127.0.0.1.evil.example",
        "chat.lan:0",
        "chat.lan:99999",
        "chat.lan:-1",
        "chat.lan:",
        "CHAT.LAN",
        "ch\u{e4}t.lan",
        "xn--cht-qla.lan",
        "chat\u{3002}lan",
        "\u{2100}evil.example",
        "*",
        "_",
        "-",
        "",
    ];
    let targets = [
        "/",
        "//evil.example",
        "//evil.example/%2f..",
        "///evil.example",
        "/\\evil.example",
        "/\\/evil.example",
        "/%09/evil.example",
        "/%5cevil.example",
        "/.evil.example",
        "/@evil.example",
        "/?@evil.example",
        "/;@evil.example",
        "/%0d%0aLocation:%20https://evil.example",
        "/%0aSet-Cookie:%20a=b",
        "/\u{10d}\u{10a}Location:evil.example",
        "http://evil.example/",
        "http://localhost/",
        "https://evil.example/x",
        "http://localhost@evil.example/",
        "http:///evil.example",
        "@evil.example",
        ":80@evil.example/",
        "evil.example",
        ".evil.example",
        "*",
        "?",
        "#",
        "/#@evil.example",
        "/a/../..//evil.example",
        "javascript:alert(1)",
    ];
    let mut redirected = 0;
    for host in hosts {
        for target in targets {
            let head = format!("GET {target} HTTP/1.1\r\nHost: {host}");
            let mut raw = Raw::plain(relay.redirect()).await;
            raw.send(format!("{head}\r\n\r\n")).await;
            let response = raw.read_response().await;
            let lines: Vec<&str> = response
                .head
                .lines()
                .filter(|line| line.to_ascii_lowercase().starts_with("location:"))
                .collect();
            match lines[..] {
                [line] => {
                    let location = line["location:".len()..].trim();
                    let rest = ours.iter().find_map(|start| location.strip_prefix(start.as_str()));
                    assert!(rest.is_some() && response.status() == 301, "{head:?}: {location}");
                    redirected += 1;
                }
                _ => {
                    assert!(
                        lines.is_empty() && [400, 421].contains(&response.status()),
                        "{head:?}: {}",
                        response.head
                    );
                }
            }
            assert_eq!(response.header("set-cookie"), None, "{head:?}");
        }
    }
    assert!(redirected > 100, "{redirected}");
}

#[tokio::test]
async fn c1_below_the_challenge_path_there_is_nothing_but_proofs() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .toml("[server]\nhttp_port = \"auto\"")
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"localhost\"]\nstorage = \"{dir}/storage\"")
        .backend(backend.address())
        .start()
        .await;
    let long = "x".repeat(4096);
    let longest = "x".repeat(256);
    let tokens = [
        "",
        "/",
        "unknown",
        "unknown/",
        "unknown?x",
        ".",
        "..",
        "...",
        "./x",
        "../x",
        "../../api/v1/me",
        "a.b",
        "a/b",
        "%2e",
        "%2e%2e",
        "%2e%2e/x",
        "a%2fb",
        "a%5cb",
        "a%00",
        "a%0a",
        "%",
        "%zz",
        "a+b",
        "a b",
        "a=b",
        "a~b",
        "a\\b",
        "index.html",
        ".git/config",
        &long,
        &longest,
    ];
    for token in tokens {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let mut raw = Raw::plain(relay.redirect()).await;
            let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
            let path = format!("/.well-known/acme-challenge/{token}");
            raw.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{body}")).await;
            let head = raw.read_head().await;
            let status = crate::harness::raw::status(&head);
            let is_target = !token.contains([' ', '\\']);
            assert!(status == 404 || !is_target && status == 400, "{method} {token}: {head}");
            assert_eq!(crate::harness::raw::header(&head, "location"), None, "{method} {token}: {head}");
        }
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn zero_means_no_redirect_listener() {
    let relay = Relay::builder().self_signed().toml("[server]\nhttp_port = 0").start().await;
    assert!(!relay.has_redirect());
}

#[tokio::test]
async fn a_request_for_the_server_itself_is_sent_to_the_root() {
    let relay = relay().await;
    let response = ask(&relay, "OPTIONS * HTTP/1.1\r\nHost: chat.lan").await;
    assert_eq!(response.status(), 308);
    assert_eq!(response.header("location"), Some(&*format!("https://chat.lan:{}/", relay.https().port())));
}

#[tokio::test]
async fn r1_a_wildcard_is_no_name_that_a_client_is_sent_to() {
    let pki = Pki::new();
    for (configured, certified, name) in [
        ("[\"chat.example.org\"]", &["*.example.org"][..], Some("chat.example.org")),
        ("[]", &["*.example.org", "chat.example.net"], Some("chat.example.net")),
        ("[]", &["*.example.org"], None),
    ] {
        let leaf = pki.leaf(certified);
        let relay = Relay::builder()
            .toml("[server]\nhttp_port = \"auto\"")
            .toml("[tls]\nmode = \"files\"\ncert = \"{dir}/cert.pem\"\nkey = \"{dir}/key.pem\"\nstorage = \"{dir}/storage\"")
            .toml(&format!("[tls]\ndomains = {configured}"))
            .file("cert.pem", leaf.cert)
            .file("key.pem", leaf.key)
            .start()
            .await;
        let response = ask(&relay, "GET /x HTTP/1.1\r\nHost: made-up.example.org").await;
        let location = name.map(|name| format!("https://{name}:{}/x", relay.https().port()));
        assert_eq!(response.header("location"), location.as_deref(), "{configured}, {certified:?}");
        assert_eq!(response.status(), if name.is_some() { 301 } else { 421 });
    }
}
