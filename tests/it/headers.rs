//! Which headers pass, which end here, and which are set (attacks.md H1, H2, P2, S8).

use crate::harness::{Backend, Client, Flask, Raw, Relay, Reply, Version, on_h1_and_h2, raw};

/// A relay with TLS before `backend`, that proxies everything.
async fn relay(backend: &Backend) -> Relay {
    Relay::builder().self_signed().backend(backend.address()).start().await
}

on_h1_and_h2! {
    async fn server_and_via_of_the_backend_are_dropped(version) {
        let backend = Backend::builder()
            .on("/x", |_| Reply::ok("ok").header("Server", "waitress").header("Via", "1.1 inner"))
            .start()
            .await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, version).get("/x").await;
        assert_ne!(answer.header("server"), Some("waitress"));
        assert_eq!(answer.header("via"), None);
    }
    async fn h2_what_a_client_claims_about_itself_is_dropped_and_set_anew(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let mut call = client.call("GET", "/x");
        for name in [
            "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix",
            "X-Forwarded-By", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "X_Forwarded_For", "X_Forwarded_Proto",
            "X_Real_IP", "X-Forwarded_Host",
        ] {
            call = call.header(name, "for=203.0.113.9");
        }
        call.send().await;
        let request = backend.only();
        assert!(!request.head.contains("203.0.113.9"), "{}", request.head);
        assert!(!request.head.to_ascii_lowercase().contains("x-forwarded-prefix"), "{}", request.head);
        assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
        assert_eq!(request.header("x-forwarded-host"), Some(&*relay.authority()));
        assert_eq!(request.header("x-forwarded-port"), Some(&*relay.https().port().to_string()));
    }

    async fn h2_nothing_that_only_a_proxy_may_say_comes_from_a_stranger(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\nclient_ip_header = \"X-Cdn-Client\"\ntrusted_proxies = [\"192.0.2.0/24\"]")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut call = client.call("GET", "/x").header("x-kept", "1");
        for name in ["X-Forwarded-User", "X-Forwarded-Ssl", "X-Client-IP", "Proxy", "X-Cdn-Client", "True-Client-IP"] {
            call = call.header(name, "canary");
        }
        call.send().await;
        let request = backend.only();
        assert!(!request.head.contains("canary"), "{}", request.head);
        assert_eq!(request.header("x-kept"), Some("1"));
    }

    async fn h2_headers_with_an_underscore_are_dropped(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        Client::https(&relay, version)
            .call("GET", "/x")
            .header("Content_Length", "5")
            .header("Any_Thing", "1")
            .header("Any-Thing", "kept")
            .send()
            .await;
        let request = backend.only();
        assert!(!request.head.contains('_'), "{}", request.head);
        assert_eq!(request.header("any-thing"), Some("kept"));
    }

    async fn p2_method_override_headers_are_dropped(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        Client::https(&relay, version)
            .call("POST", "/x")
            .header("X-HTTP-Method-Override", "DELETE")
            .header("X-Method-Override", "DELETE")
            .header("X-HTTP-Method", "DELETE")
            .send()
            .await;
        let request = backend.only();
        assert_eq!(request.method, "POST");
        assert!(!request.head.contains("DELETE"), "{}", request.head);
    }

    async fn cookies_are_one_field(version) {
        let backend = Backend::start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        match version {
            Version::Http1 => client.call("GET", "/x").header("cookie", "a=1; b=2").send().await,
            Version::Http2 => {
                client.call("GET", "/x").header("cookie", "a=1").header("cookie", "b=2").send().await
            }
        };
        assert_eq!(backend.only().headers("cookie"), ["a=1; b=2"]);
    }

    async fn a_location_of_the_backends_own_address_is_rewritten(version) {
        let backend = Backend::builder()
            .on("/own", |request| {
                Reply::status("302 FOUND").header("Location", &format!("http://{}/x?y=1#z", request.headers("x-own")[0]))
            })
            .on("/other", |_| Reply::status("302 FOUND").header("Location", "https://elsewhere.example/x"))
            .on("/relative", |_| Reply::status("302 FOUND").header("Location", "/x?y"))
            .on("/likely", |request| {
                // Begins like the backend's address, and is another.
                Reply::status("302 FOUND").header("Location", &format!("http://{}0/x", request.headers("x-own")[0]))
            })
            .start()
            .await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let own = backend.address().to_string();
        for (path, location) in [
            ("/own", format!("https://{}/x?y=1#z", relay.authority())),
            ("/other", "https://elsewhere.example/x".to_owned()),
            ("/relative", "/x?y".to_owned()),
            ("/likely", format!("http://{own}0/x")),
        ] {
            let answer = client.call("GET", path).header("x-own", &own).send().await;
            assert_eq!(answer.status, 302);
            assert_eq!(answer.header("location"), Some(&*location), "{path}");
        }
    }

    async fn flasks_redirects_lead_to_the_public_address(version) {
        let flask = Flask::start(&["--prefix", "abc", "--proxy"]).await;
        let relay = Relay::builder()
            .self_signed()
            .toml("uri_prefix = \"abc\"")
            .backend(flask.address())
            .start()
            .await;
        let client = Client::https(&relay, version);
        let answer = client.call("GET", "/abc/page").header("X-Forwarded-Prefix", "/evil").send().await;
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some(&*format!("https://{}/abc/page/", relay.authority())));
        let answer = client.get("/abc/elsewhere").await;
        assert_eq!(answer.header("location"), Some("https://elsewhere.example/x"));
    }

    async fn flask_sees_no_header_that_the_client_made_up(version) {
        let flask = Flask::start(&["--prefix", "abc", "--proxy"]).await;
        let relay = Relay::builder()
            .self_signed()
            .toml("uri_prefix = \"abc\"")
            .backend(flask.address())
            .start()
            .await;
        let environ = Client::https(&relay, version)
            .call("GET", "/abc/environ?q=%2f")
            .header("X-Forwarded-Prefix", "/evil")
            .header("X-Forwarded-Host", "evil.example")
            .header("X_Forwarded_For", "203.0.113.9")
            .header("X-Real-IP", "203.0.113.9")
            .send()
            .await;
        let text = environ.text().to_owned();
        assert!(!text.contains("evil") && !text.contains("203.0.113.9"), "{text}");
        let environ = environ.json();
        assert_eq!(environ["SCRIPT_NAME"], "");
        assert_eq!(environ["PATH_INFO"], "/abc/environ");
        assert_eq!(environ["QUERY_STRING"], "q=%2f");
    }
}

#[tokio::test]
async fn h1_attack_a_client_cannot_name_away_what_we_set() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(
        "POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close, X-Forwarded-For, X-Forwarded-Proto, Content-Length, \
         Host, Authorization, X-Named\r\nAuthorization: Bearer t\r\nX-Named: 1\r\nContent-Length: 4\r\n\r\nbody",
    )
    .await;
    assert_eq!(raw::status(&raw.read_head().await), 200);
    let request = backend.only();
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("authorization"), Some("Bearer t"));
    assert!(request.header("host").is_some());
    assert_eq!(request.header("x-named"), None);
    assert_eq!(request.body, b"body");
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_in_both_directions() {
    let backend = Backend::builder()
        .on("/x", |_| {
            Reply::ok("ok")
                .header("Connection", "X-Inner, keep-alive")
                .header("X-Inner", "1")
                .header("Keep-Alive", "timeout=5")
                .header("Proxy-Authenticate", "Basic")
                .header("Upgrade", "h2c")
                .header("Trailer", "X-T")
        })
        .start()
        .await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(
        "GET /x HTTP/1.1\r\nHost: localhost\r\nKeep-Alive: 300\r\nTE: trailers\r\nTrailer: X-T\r\n\
         Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nX-End: 1\r\n\r\n",
    )
    .await;
    let response = raw.read_response().await;
    assert_eq!(response.body, b"ok");
    let request = backend.only();
    for name in ["keep-alive", "te", "trailer", "proxy-authorization", "proxy-connection", "http2-settings"] {
        assert_eq!(request.header(name), None, "{}", request.head);
    }
    assert!(!request.head.contains("h2c"), "{}", request.head);
    assert_eq!(request.header("x-end"), Some("1"));
    for name in ["x-inner", "keep-alive", "proxy-authenticate", "upgrade", "trailer"] {
        assert_eq!(response.header(name), None, "{}", response.head);
    }
}

#[tokio::test]
async fn s8_trailers_of_a_request_are_dropped() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(
        "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\
         Host: evil\r\nX-Forwarded-For: 203.0.113.9\r\nContent-Length: 5\r\n\r\n",
    )
    .await;
    assert_eq!(raw.read_response().await.status(), 200);
    let request = backend.only();
    assert_eq!(request.body, b"body");
    assert_eq!(request.trailers, "");
}

#[tokio::test]
async fn a_client_that_names_no_host_is_sent_to_a_path() {
    let backend = Backend::builder()
        .on("/x", |request| Reply::status("302 FOUND").header("Location", request.headers("x-location")[0]))
        .start()
        .await;
    let relay = relay(&backend).await;
    let own = backend.address();
    for (location, rewritten) in [
        (format!("http://{own}/page/?y=1#z"), "/page/?y=1#z"),
        (format!("http://{own}"), "/"),
        (format!("http://{own}?y=1"), "/?y=1"),
        // A path alone must not turn into a name.
        (format!("http://{own}//evil.example/"), "/evil.example/"),
        (format!("http://{own}/\\evil.example/"), "/evil.example/"),
        ("https://elsewhere.example/".to_owned(), "https://elsewhere.example/"),
    ] {
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!("GET /x HTTP/1.0\r\nX-Location: {location}\r\n\r\n")).await;
        let head = raw.read_head().await;
        assert_eq!(raw::header(&head, "location"), Some(rewritten), "{location}: {head}");
    }
}
