//! attacks.md G1: what a log would show to who reads it, and what a client could write into it.

use std::sync::Arc;

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, EventSource, Microsocks, Raw, Relay, Reply, Tinyproxy, Version, on_h1_and_h2,
    peers::free_address,
    relay::{RelayBuilder, field, run_check, stderr},
};

const PREFIX: &str = "s3cretpr3fix";
const FORMATS: [&str; 2] = ["text", "json"];

fn relay(format: &str) -> RelayBuilder {
    Relay::builder()
        .self_signed()
        .toml(&format!("uri_prefix = \"{PREFIX}\"\n[log]\nlevel = \"trace\"\nformat = \"{format}\""))
        .toml("[backend]\nretry_for = \"1s\"\nresponse_timeout = \"1s\"")
}

/// Nothing of what is marked, and nothing of the prefix, stands in any line.
fn assert_silent(relay: &Relay) {
    for line in relay.logs() {
        let lower = line.to_ascii_lowercase();
        for secret in ["canary", "y2fuyxj5", PREFIX] {
            assert!(!lower.contains(secret), "{secret}: {line}");
        }
    }
}

on_h1_and_h2! {
    async fn g1_a_secret_in_any_place_of_an_exchange_is_in_no_line(version) {
        for format in FORMATS {
            let path = |rest: &str| format!("/{PREFIX}/api/v1/{rest}");
            let backend = Backend::builder()
                .on(&path("set"), |_| Reply::ok("canary-body").header("Set-Cookie", "session=canary-set"))
                .on(&path("moved"), |_| Reply::status("302 FOUND").header("Location", "/x?authorization=canary-location"))
                .on(&path("away"), |_| Reply::status("302 FOUND").header("Location", "https://u:canary@elsewhere.example/"))
                .on(&path("bad-head"), |_| Reply::raw("HTTP/1.1 200 OK\r\nX: canary-head\r\nno colon canary\r\n\r\n"))
                .on(&path("bad-status"), |_| Reply::raw("HTTP/1.1 canary-status OK\r\n\r\n"))
                .on(&path("bad-chunk"), |_| Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary-chunk\r\n"))
                .on(&path("cut"), |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncanary-cut"))
                .on(&path("twice"), |_| Reply::ok("ok").header("Content-Length", "canary").header("Content-Length", "2"))
                .on(&path("gone"), |_| Reply::raw(""))
                .on(&path("silent"), |_| Reply::silence())
                .on(&path("limited"), |_| Reply::status("429 TOO MANY REQUESTS").header("Retry-After", "canary"))
                .start()
                .await;
            let relay = relay(format)
                .toml("[server]\nhttp_port = \"auto\"")
                .toml("[[paths]]\nprefix = \"/api/v1/form\"\naction = \"proxy\"\nblock_files = true")
                .toml("[[paths]]\nprefix = \"/api/v1/sized\"\naction = \"proxy\"\nmax_size = 1")
                .toml("[[paths]]\nprefix = \"/api/v1/target\"\naction = \"redirect\"\ntarget = \"https://u:canary@h/?canary-target\"")
                .toml("[[paths]]\nprefix = \"/api/v1/block\"\naction = \"block\"")
                .toml("[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"")
                .backend(backend.address())
                .start()
                .await;
            let client = Client::https(&relay, version);
            let mut sent = 0;
            for rest in [
                "set", "moved", "away", "bad-head", "bad-status", "bad-chunk", "cut", "twice", "gone", "silent", "limited",
                "form", "sized", "target", "block", "other",
            ] {
                for (method, content_type, body) in [
                    ("GET", "text/plain", ""),
                    ("POST", "application/x-www-form-urlencoded", "password=canary-field"),
                    (
                        "POST",
                        "multipart/form-data; boundary=canary-boundary",
                        "--canary-boundary\r\nContent-Disposition: form-data; name=\"canary-name\"; filename=\"canary-file\"\r\n\r\n\
                         canary-content\r\n--canary-boundary--\r\n",
                    ),
                    (
                        "POST",
                        "multipart/form-data; boundary=x",
                        "--x\r\nContent-Disposition: form-data; canary-parameter=\"\r\n\r\ncanary-value\r\n--x--\r\n",
                    ),
                    ("POST", "multipart/form-data; canary; boundary=", "canary"),
                ] {
                    let query = "?authorization=Bearer%20canary-query&canary-key#canary-fragment";
                    let call = client
                        .call(method, &format!("{}{query}", path(rest)))
                        .header("authorization", "Bearer canary-authorization")
                        .header("proxy-authorization", "Basic Y2FuYXJ5OmNhbmFyeQ==")
                        .header("cookie", "token=canary-cookie")
                        .header("referer", &format!("https://h/{PREFIX}/?canary-referer"))
                        .header("origin", "https://canary-origin")
                        .header("user-agent", "canary-agent")
                        .header("accept-language", "canary-language")
                        .header("x-canary-name", "canary-other")
                        .header("x-api-key", "canary-key")
                        .header("if-none-match", "\"canary-etag\"")
                        .header("range", "bytes=canary-range")
                        .header("x-forwarded-for", "canary-forwarded")
                        .header("forwarded", "for=canary-forwarded")
                        .header("content-type", content_type);
                    let call = if body.is_empty() { call } else { call.body(body) };
                    // An error: it was broken off.
                    if let Ok(response) = call.try_open().await {
                        drop(response);
                    }
                    sent += 1;
                }
            }
            for target in [
                format!("/{PREFIX}?canary"),
                format!("/%73{}/x?canary", &PREFIX[1..]),
                format!("//{PREFIX}//x?canary"),
                format!("/{PREFIX}%2fx?canary"),
                format!("/{PREFIX}/../x?canary"),
                format!("/x/{PREFIX}?canary"),
                format!("/{PREFIX}.?canary"),
                format!("/x{PREFIX}x?canary"),
                format!("/{PREFIX}/%zz?canary"),
                format!("/{PREFIX}/none?canary"),
                "/?canary?canary".to_owned(),
            ] {
                client.call("GET", &target).send().await;
                client.call("PROPFIND", &target).send().await;
                sent += 2;
            }
            let stream = path("gone?authorization=Bearer%20canary-stream");
            let held = EventSource::open(&Arc::new(Client::https(&relay, version)), &stream, &[]);
            held.until("to be held", |story| story.comments >= 1).await;
            relay.signal(Signal::USR1);
            relay.log_with(&["streams_held"]).await;
            drop(held);
            client.get("/last").await;
            relay.access("/last").await;
            assert!(sent > 100);
            assert_silent(&relay);
        }
    }
}

#[tokio::test]
async fn g1_a_secret_in_a_head_that_is_refused_is_in_no_line() {
    for format in FORMATS {
        let backend =
            Backend::builder().on(&format!("/{PREFIX}/socket"), |_| Reply::tunnel("websocket")).start().await;
        let relay =
            relay(format).toml("[server]\nhttp_port = \"auto\"").backend(backend.address()).start().await;
        for head in [
            "GET /x?canary HTTP/9.9\r\nHost: localhost",
            "GET /x?canary\r\nHost: localhost",
            "GET /x?canary HTTP/1.1\r\nHost: canary@localhost",
            "GET /x?canary HTTP/1.1\r\nHost: canary canary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nHost: canary",
            "GET http://canary:canary@localhost/?canary HTTP/1.1\r\nHost: localhost",
            "GET ftp://canary/ HTTP/1.1\r\nHost: localhost",
            "CONNECT canary:443 HTTP/1.1\r\nHost: canary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\ncanary canary: x",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\ncanary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nX: canary\0",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nContent-Length: canary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: canary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nExpect: canary",
            "GET /x?canary HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: canary\r\nConnection: canary",
            "POST /x?canary HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\ncanary",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ncanary canary canary canary",
        ] {
            for mut raw in [Raw::tls(&relay).await, Raw::plain(relay.redirect()).await] {
                raw.try_send(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await;
                raw.finish().await;
                raw.read_to_end().await;
            }
        }
        let long = format!("GET /{PREFIX}/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "canary".repeat(20_000));
        let mut raw = Raw::tls(&relay).await;
        raw.try_send(long.as_bytes()).await;
        raw.read_to_end().await;
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!(
            "GET /{PREFIX}/socket?token=canary HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Protocol: canary\r\nSec-WebSocket-Key: canary\r\n\r\n"
        ))
        .await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101"));
        raw.send("canary").await;
        assert_eq!(raw.read(6).await, b"canary");
        drop(raw);
        Client::https(&relay, Version::Http1).get("/last").await;
        relay.access("/last").await;
        assert_silent(&relay);
    }
}

#[tokio::test]
async fn g1_the_passwords_of_proxies_and_cas_are_in_no_line() {
    let backend = Backend::start().await;
    let (socks, http) = (
        Microsocks::start(Some(("u", "canary-password"))).await,
        Tinyproxy::start(Some(("u", "canary-password"))).await,
    );
    let nobody = free_address();
    for format in FORMATS {
        for (url, status) in [
            (format!("socks5://u:canary-password@{}", socks.address()), 200),
            (format!("socks5h://u:canary-password@{}", socks.address()), 200),
            (format!("http://u:canary-password@{}", http.address()), 200),
            (format!("socks5://u:canary-wrong@{}", socks.address()), 502),
            // Tinyproxy says it in the backend's name: it cannot be told from its 401.
            (format!("http://u:canary-wrong@{}", http.address()), 401),
            (format!("socks5://canary-user:%63anary@{nobody}"), 502),
            (format!("http://canary-user:%63anary@{nobody}"), 502),
        ] {
            let relay = relay(format)
                .toml(&format!("[upstream_proxy]\nenabled = true\nurl = \"{url}\""))
                .toml("[tls.acme]\nproxy = \"upstream\"")
                .backend(backend.address())
                .start()
                .await;
            let client = Client::https(&relay, Version::Http2);
            let path = format!("/{PREFIX}/api/v1/x?canary");
            assert_eq!(client.get(&path).await.status, status, "{url}");
            relay.signal(Signal::USR1);
            relay.log_with(&["streams_live"]).await;
            assert_silent(&relay);
        }
        let relay = Relay::builder()
            .toml(&format!("[log]\nlevel = \"trace\"\nformat = \"{format}\""))
            .toml("[tls]\nmode = \"acme\"\ndomains = [\"chat.example.org\"]\nstorage = \"{dir}/storage\"")
            .toml(&format!("[tls.acme]\ndirectory = \"https://{nobody}/directory\"\neab_kid = \"kid\""))
            .toml(&format!(
                "[tls.acme]\neab_hmac_file = \"{{dir}}/key\"\nproxy = \"socks5://u:canary-acme@{nobody}\""
            ))
            .file("key", "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5")
            .start()
            .await;
        relay.log_with(&["no new certificate", "cannot be reached"]).await;
        assert_silent(&relay);
    }
}

#[tokio::test]
async fn g1_a_config_with_a_fault_is_told_without_its_secrets() {
    for text in [
        "[upstream_proxy]\nenabled = true\nurl = \"socks9://u:canary@h:1\"",
        "[upstream_proxy]\nenabled = true\nurl = \"http://u:canary@h:1/path\"",
        "[upstream_proxy]\nenabled = true\nurl = \"http://u:canary@:99999\"",
        "[upstream_proxy]\nenabled = true\nurl = \"u:canary@h\"",
        "[upstream_proxy]\nenabled = true\nurl = \"socks5://u:canary@h:1",
        "[upstream_proxy]\nenabled = 1\nurl = \"http://u:canary@h:1\"",
        "[upstream_proxy]\nenabled = true\nuri = \"http://u:canary@h:1\"",
        "[upstream_proxy]\nenabled = true\nurl = [\"http://u:canary@h:1\"]",
        "[upstream_proxy]\nurl = \"http://u:canary@h:1\"\nurl = \"http://u:canary@h:2\"",
        "[tls]\ndomains = [\"a.example\"]\n[tls.acme]\nproxy = \"socks9://u:canary@h:1\"",
        "[tls]\ndomains = [\"a.example\"]\n[tls.acme]\nproxy = 1 # socks5://u:canary@h:1",
        "[backend]\nurl = \"http://u:canary@127.0.0.1:1\"",
        "[frontend]\nmode = \"forward\"\nurl = \"http://u:canary@127.0.0.1:1\"",
        "uri_prefix = \"canary/canary\"",
        "uri_prefix = \"canary canary\"",
        "uri_prefix = [\"canary\"]",
        "uri_prefix = \"canary",
    ] {
        let output = run_check(&format!("version = 1\n{text}\n")).await;
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(!told.contains("canary"), "{text}: {told}");
        assert_eq!(output.status.code(), Some(78), "{text}: {told}");
    }
}

on_h1_and_h2! {
    async fn g1_what_a_client_writes_is_one_field_of_one_line(version) {
        let backend = Backend::start().await;
        for format in FORMATS {
            let relay = Relay::builder()
                .self_signed()
                .toml(&format!("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[log]\nlevel = \"trace\"\nformat = \"{format}\""))
                .backend(backend.address())
                .start()
                .await;
            let client = Client::https(&relay, version);
            let mut lines = 0;
            for path in [
                "/a%20status=200%20rule=9%20end=whole", "/a%22%20status=200", "/a%0a2026-01-01T00:00:00.000000Z%20INFO%20access",
                "/a%0d%0a", "/a%1b[31m", "/a%9b31m", "/a%c2%9b31m", "/a%e2%80%a8x", "/a%e2%80%ae%d8%b9", "/a%7f", "/a%00",
                "/a%5cu001b", "/a%22,%22status%22:200", "/a'%3b", "/a=b", "/a,b", "/a$(x)", "/a%60x%60", "/%25s%25n", "/{path}",
                "/a?%0astatus=200", "/a?%22status%22=200", "/a?{}",
            ] {
                for value in ["1.2.3.4 status=200", "1.2.3.4\"", "1.2.3.4, evil", "for=\"x\"", "%0a", "999.1.1.1", "1.2.3.4%0a", "::1%eth0 x"] {
                    client
                        .call("GET", path)
                        .header("x-forwarded-for", value)
                        .header("user-agent", "\" status=200 end=whole {\"status\":200}")
                        .send()
                        .await;
                    lines += 1;
                }
            }
            for method in ["STATUS=200", "GET\"", "%0aGET", "{}", "A'B"] {
                // What is no token cannot be sent by this client.
                if method.parse::<http::Method>().is_ok() {
                    client.call(method, "/m").send().await;
                }
            }
            client.get("/last").await;
            relay.access("/last").await;
            let logs = relay.logs();
            for line in &logs {
                assert!(line.chars().all(|character| character.is_ascii_graphic() || character == ' '), "{line:?}");
                let is_access = match format {
                    "json" => serde_json::from_str::<serde_json::Value>(line).unwrap()["fields"]["message"] == "access",
                    _ => line.contains(" access client="),
                };
                if !is_access {
                    continue;
                }
                for name in ["status", "rule", "end", "client", "path"] {
                    if format == "text" {
                        assert_eq!(line.matches(&format!(" {name}=")).count(), 1, "{name}: {line:?}");
                    }
                }
                let client: Result<std::net::IpAddr, _> = field(line, "client").unwrap().parse();
                assert!(client.is_ok(), "{line}");
                let status: u16 = field(line, "status").unwrap().parse().unwrap();
                assert!([200, 400, 405].contains(&status), "{line}");
            }
            let access = logs.iter().filter(|line| line.contains("access")).count();
            assert!(access > lines, "a line each: {access} of {lines}");
        }
    }
}
