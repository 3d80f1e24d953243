//! What a client may say in headers, tried name by name (attacks.md H1, H2, P2).

use std::collections::BTreeSet;

use crate::harness::{Backend, Client, Flask, Raw, Relay, on_h1_and_h2, raw};

/// What only a proxy may say, as it reaches a WSGI application if it does: `-` and `_` are one there.
const NOT_FROM_CLIENTS: &[&str] = &[
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-By",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Path",
    "X-Forwarded-User",
    "X-Real-IP",
    "X-Client-IP",
    "CF-Connecting-IP",
    "True-Client-IP",
    "Forwarded",
    "Proxy",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
];

/// The name with each `-` as it is or as `_`, each in two letter cases.
fn spellings(name: &str) -> BTreeSet<String> {
    let dashes: Vec<usize> = name.match_indices('-').map(|(at, _)| at).collect();
    let mut spellings = BTreeSet::new();
    for which in 0..1 << dashes.len() {
        let mut spelling = name.to_owned().into_bytes();
        for (number, at) in dashes.iter().enumerate() {
            if which & 1 << number != 0 {
                spelling[*at] = b'_';
            }
        }
        let spelling = String::from_utf8(spelling).unwrap();
        spellings.insert(spelling.to_ascii_uppercase());
        spellings.insert(spelling);
    }
    spellings
}

#[tokio::test]
async fn h2_no_spelling_of_a_proxys_header_reaches_the_backend() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[server]\ntrusted_proxies = [\"192.0.2.0/24\"]")
        .backend(backend.address())
        .start()
        .await;
    let mut tried = 0;
    for name in NOT_FROM_CLIENTS {
        for spelling in spellings(name) {
            for line in [
                format!("{spelling}: canary"),
                format!("{spelling}:canary, canary\r\n{spelling}: canary"),
                // It cannot be brought past by what `Connection` does to names.
                format!("Connection: {spelling}\r\n{spelling}: canary"),
            ] {
                let mut raw = Raw::tls(&relay).await;
                raw.send(format!("GET /environ HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n")).await;
                assert_eq!(raw.read_response().await.status(), 200, "{line}");
                let head = backend.last().head;
                assert!(!head.contains("canary"), "{line}: {head}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 300, "{tried}");
}

#[tokio::test]
async fn h1_nothing_that_we_set_can_be_named_away_and_nothing_else_stays() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let ours = [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "Forwarded",
        "Host",
        "Authorization",
        "Content-Length",
    ];
    let values = |name: &str| {
        [
            name.to_owned(),
            name.to_ascii_uppercase(),
            name.to_ascii_lowercase(),
            format!("close, {name}"),
            format!("keep-alive,{name},"),
            format!(" ,\t{name} , ,x-named"),
            format!("{name}\r\nConnection: x-named, {name}"),
            format!("x-named\r\nConnection: {name}\r\nConnection: close"),
            format!("\"{name}\""),
            format!("{name};q=1"),
        ]
    };
    let mut tried = 0;
    for name in ours {
        for value in values(name) {
            let mut raw = Raw::tls(&relay).await;
            raw.send(format!(
                "POST /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\nConnection: {value}, x-named\r\n\
                 X-Named: 1\r\nContent-Length: 4\r\n\r\nbody"
            ))
            .await;
            let status = raw::status(&raw.read_head().await);
            tried += 1;
            // Some of these are no lists of names.
            assert!([200, 400].contains(&status), "{value}: {status}");
            if status == 400 {
                continue;
            }
            let request = backend.last();
            assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"), "{value}: {}", request.head);
            assert_eq!(request.header("x-real-ip"), Some("127.0.0.1"), "{value}");
            assert_eq!(request.header("x-forwarded-proto"), Some("https"), "{value}");
            assert_eq!(request.header("x-forwarded-host"), Some("localhost"), "{value}");
            assert_eq!(request.header("x-forwarded-port"), Some("443"), "{value}");
            assert!(request.header("forwarded").is_some(), "{value}");
            assert_eq!(request.header("host"), Some("localhost"), "{value}");
            assert_eq!(request.header("authorization"), Some("Bearer t"), "{value}");
            assert_eq!(request.body, b"body", "{value}");
            assert_eq!(request.header("x-named"), None, "{value}: {}", request.head);
            assert_eq!(request.header("connection"), None, "{value}: {}", request.head);
        }
    }
    assert_eq!(backend.requests().iter().filter(|request| request.ended.is_none()).count(), 0);
    assert!(tried >= 90, "{tried}");
}

on_h1_and_h2! {
    async fn p2_the_method_that_was_matched_is_the_one_that_arrives(version) {
        let flask = Flask::start(&[]).await;
        let relay = Relay::builder()
            .self_signed()
            .toml("[[paths]]\nprefix = \"/api/v1/me\"\nmethods = [\"patch\", \"Delete\"]\naction = \"block\"")
            .toml("[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"")
            .backend(flask.address())
            .start()
            .await;
        let client = Client::https(&relay, version);
        for name in ["X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override"] {
            for spelling in spellings(name) {
                for method in ["GET", "POST", "HEAD", "OPTIONS", "PUT"] {
                    let call = client.call(method, "/api/v1/me?_method=PATCH").header(&spelling, "PATCH");
                    let status = call.send().await.status;
                    assert_ne!(status, 403, "{method}, {spelling}");
                    let seen = flask.seen().await;
                    assert_eq!((seen.len(), &*seen[0].method), (1, method), "{spelling}");
                }
                for method in ["PATCH", "DELETE"] {
                    let call = client.call(method, "/api/v1/me").header(&spelling, "GET");
                    call.send().await.assert_error(403, "forbidden");
                }
            }
        }
        for method in ["patch", "Patch", "PATCHX", "XPATCH", "get", "PROPFIND", "TRACE"] {
            let answer = client.call(method, "/api/v1/me").send().await;
            assert_eq!(answer.status, 405, "{method}");
        }
        assert_eq!(flask.seen().await.len(), 0);
    }

    async fn p2_head_is_a_method_of_its_own(version) {
        let flask = Flask::start(&[]).await;
        let relay = Relay::builder()
            .self_signed()
            .toml("[[paths]]\nprefix = \"/pfp\"\nmethods = [\"GET\"]\naction = \"block\"")
            .toml("[[paths]]\nprefix = \"/attachment\"\nmethods = [\"GET\", \"HEAD\"]\naction = \"block\"")
            .backend(flask.address())
            .toml("[[paths]]\nprefix = \"/*\"\naction = \"proxy\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        for (path, method, status) in
            [("/pfp/1", "GET", 403), ("/pfp/1", "HEAD", 200), ("/attachment/1", "GET", 403), ("/attachment/1", "HEAD", 403)]
        {
            let answer = client.call(method, path).send().await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(status == 403 || answer.body.is_empty());
        }
    }
}
