//! The log: a line a request, nothing secret in it, nothing that the client can forge (attacks.md G1).

use crate::harness::{Backend, Client, Raw, Relay, Reply, Version, on_h1_and_h2, relay::field};

on_h1_and_h2! {
    async fn each_request_has_a_line(version) {
        let backend = Backend::builder().on("/abc/x", |_| Reply::ok("12345")).start().await;
        let relay = Relay::builder()
            .self_signed()
            .toml("uri_prefix = \"abc\"\n[[paths]]\nprefix = \"/api\"\naction = \"block\"\n[[paths]]\nprefix = \"/x\"\naction = \"proxy\"")
            .backend(backend.address())
            .start()
            .await;
        let client = Client::https(&relay, version);
        client.call("POST", "/abc/x?token=canary").body("body").send().await;
        client.get("/abc/api/%D8%B9").await;
        client.get("/abc/none").await;
        for (path, fields) in [
            ("/<prefix>/x?", [("method", "POST"), ("status", "200"), ("bytes", "5"), ("rule", "2")]),
            ("/<prefix>/api/%D8%B9", [("method", "GET"), ("status", "403"), ("bytes", "21"), ("rule", "1")]),
            ("/<prefix>/none", [("method", "GET"), ("status", "404"), ("bytes", "9"), ("rule", "frontend")]),
        ] {
            let line = relay.access(path).await;
            for (name, value) in fields {
                assert_eq!(field(&line, name).as_deref(), Some(value), "{name}: {line}");
            }
            assert_eq!(field(&line, "client").as_deref(), Some("127.0.0.1"), "{line}");
            assert!(field(&line, "ms").unwrap().parse::<f64>().is_ok(), "{line}");
            assert!(line.len() > 27 && line.as_bytes()[10] == b'T' && line.contains("Z "), "{line}");
        }
    }

    async fn the_line_is_written_when_the_body_has_ended(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let response = client.call("GET", "/events").open().await;
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        // Another request's line is there, the stream's is not.
        client.get("/other").await;
        relay.access("/other").await;
        assert!(!relay.logs().iter().any(|line| line.contains("/events")));
        drop(response);
        drop(client);
        let line = relay.access("/events").await;
        assert_eq!(field(&line, "status").as_deref(), Some("200"));
    }

    async fn a_client_that_leaves_before_the_response_has_a_line_too(version) {
        let backend = Backend::builder().on("/silent", |_| Reply::silence()).start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        tokio::select! {
            () = backend.wait("the request", |requests| requests.len() == 1) => {}
            _ = client.call("GET", "/silent").open() => panic!("nobody answers"),
        }
        drop(client);
        let line = relay.access("/silent").await;
        for (name, value) in [("status", "499"), ("bytes", "0"), ("rule", "1"), ("end", "aborted")] {
            assert_eq!(field(&line, name).as_deref(), Some(value), "{name}: {line}");
        }
    }

    async fn g1_no_secret_is_in_any_line_at_any_level(version) {
        let backend = Backend::builder()
            .on("/secretprefix/api/v1/x", |_| Reply::ok("ok").header("Set-Cookie", "session=canary-set"))
            .on("/secretprefix/api/v1/broken", |_| Reply::raw("HTTP/1.1 200 OK\r\nX: canary-head\r\nbad line\r\n\r\n"))
            .on("/secretprefix/api/v1/moved", |_| {
                Reply::status("302 FOUND").header("Location", "/secretprefix/x?canary-location")
            })
            .start()
            .await;
        let relay = Relay::builder()
            .self_signed()
            .toml("uri_prefix = \"secretprefix\"\n[log]\nlevel = \"trace\"")
            .toml("[[paths]]\nprefix = \"/api/v1/form\"\naction = \"proxy\"\nblock_files = true")
            .toml("[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"")
            .backend(backend.address())
            .start()
            .await;
        let client = Client::https(&relay, version);
        for path in ["x", "broken", "moved", "form"] {
            client
                .call("POST", &format!("/secretprefix/api/v1/{path}?authorization=Bearer%20canary-query&canary-key"))
                .header("authorization", "Bearer canary-authorization")
                .header("cookie", "token=canary-cookie")
                .header("referer", "https://h/secretprefix/?canary-referer")
                .header("content-type", "multipart/form-data; boundary=canary-boundary")
                .header("x-forwarded-for", "canary-forwarded")
                .body("canary-body")
                .send()
                .await;
        }
        client.get("/secretprefix/none?canary").await;
        client.get("/secretprefix/a%2fb?canary").await;
        relay.log_with(&["access", "/none"]).await;
        for _ in 0..2 {
            relay.log_with(&["access", "status=400"]).await;
        }
        for line in relay.logs() {
            assert!(!line.contains("canary"), "{line}");
            assert!(!line.contains("secretprefix"), "{line}");
        }
    }
}

#[tokio::test]
async fn g1_what_a_client_writes_cannot_forge_a_line() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    for target in
        ["/a%22%20status=200%20rule=9", "/b%1b[31m", "/c%0d%0aINFO%20forged", "/d\"quoted", "/e%E2%80%A8x"]
    {
        let mut raw = Raw::plain(relay.http()).await;
        let agent = "\u{1b}[31m\"agent\" forged";
        raw.send(format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        ))
        .await;
        raw.read_to_end().await;
    }
    Client::http(relay.http()).get("/last").await;
    relay.access("/last").await;
    for line in relay.logs() {
        assert!(line.chars().all(|character| !character.is_control()), "{line:?}");
        assert!(!line.starts_with("INFO"), "{line:?}");
        if line.contains(" access ") {
            assert!(line.matches(" status=").count() == 1 && line.matches(" rule=").count() == 1, "{line:?}");
        }
    }
}

#[tokio::test]
async fn one_query_is_one_hash_and_another_is_another() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    let client = Client::http(relay.http());
    for path in ["/a?one", "/b?one", "/c?two"] {
        client.get(path).await;
    }
    let mut hashes = Vec::new();
    for path in ["/a?", "/b?", "/c?"] {
        let line = relay.access(path).await;
        let shown = field(&line, "path").unwrap();
        let hash = shown.split_once('?').unwrap().1.to_owned();
        assert!(hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
        hashes.push(hash);
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
}

#[tokio::test]
async fn json_lines_are_json() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("uri_prefix = \"abc\"\n[log]\nformat = \"json\"")
        .backend(backend.address())
        .start()
        .await;
    let client = Client::https(&relay, Version::Http2);
    client.get("/abc/x\"y?q=%22").await;
    let line = relay.access("/<prefix>/x%22y?").await;
    for line in relay.logs() {
        let line: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let fields = &line["fields"];
    assert_eq!(fields["status"], 200, "{line}");
    assert_eq!(fields["bytes"], 2, "{line}");
    assert!(fields["path"].as_str().unwrap().starts_with("/<prefix>/x%22y?"), "{line}");
    assert_eq!(fields["client"], "127.0.0.1", "{line}");
}

#[tokio::test]
async fn the_access_log_can_be_turned_off() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).toml("[log]\naccess = false").start().await;
    let client = Client::http(relay.http());
    for _ in 0..5 {
        client.get("/x").await;
    }
    drop(client);
    let mut relay = relay;
    relay.signal(rustix::process::Signal::TERM);
    relay.end().await;
    assert!(!relay.logs().iter().any(|line| line.contains("access")), "{:?}", relay.logs());
}

#[tokio::test]
async fn the_start_tells_what_is_served_and_sigusr1_what_is_under_way() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let serving = relay.log_with(&["serving", "url="]).await;
    assert!(serving.contains(&format!("backend=http://{}", backend.address())), "{serving}");
    let client = Client::https(&relay, Version::Http1);
    let _stream = client.call("GET", "/events").header("accept", "text/event-stream").open().await;
    relay.signal(rustix::process::Signal::USR1);
    let status = relay.log_with(&["status", "streams_live="]).await;
    for field in ["busy=1", "idle=0", "waiting=0", "streams_live=1", "streams_held=0", "retries=0"] {
        assert!(status.contains(field), "{field}: {status}");
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_told_at_the_start() {
    let relay = Relay::builder().backend(crate::harness::peers::free_address()).start().await;
    relay.log_with(&["the backend does not answer; requests wait, streams are kept open", "refused"]).await;
}

#[tokio::test]
async fn a_front_end_elsewhere_that_is_not_there_is_not_called_the_backend() {
    let address = crate::harness::peers::free_address();
    let frontend = format!("[frontend]\nmode = \"forward\"\nurl = \"http://{address}\"");
    let relay = Relay::builder().toml(&frontend).toml("[backend]\nretry_for = \"0s\"").start().await;
    let client = Client::http(relay.http());
    assert_eq!(client.get("/").await.status, 502);
    let line = relay.log_with(&["the front end's server does not answer; requests wait", "refused"]).await;
    assert!(line.contains(&address.to_string()) && !line.contains("streams"), "{line}");
    let _frontend = Backend::builder().at(address).start().await;
    assert_eq!(client.get("/").await.status, 200);
    relay.log_with(&["the front end's server answers again"]).await;
}
