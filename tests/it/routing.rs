//! Which rule decides: the original's recorded decisions.

use crate::harness::{Backend, Client, Relay, Version, on_h1_and_h2};

/// `tests/fixtures/goldens/rules.json`.
#[derive(serde::Deserialize)]
struct Goldens {
    /// The files that the front end served.
    front: std::collections::BTreeMap<String, String>,
    cases: Vec<GoldenCase>,
}

#[derive(serde::Deserialize)]
struct GoldenCase {
    uri_prefix: String,
    frontend_mode: String,
    paths: toml::Value,
    requests: Vec<GoldenRequest>,
}

#[derive(Debug, serde::Deserialize)]
struct GoldenRequest {
    method: String,
    path: String,
    status: u16,
    /// The decoded path that the backend was asked for.
    proxied: Option<String>,
    location: Option<String>,
    body: Option<String>,
}

on_h1_and_h2! {
    /// Over plain HTTP, as the original, and over HTTP/2. The one wanted difference: static files answer GET and
    /// HEAD alone.
    async fn the_recorded_decisions_of_the_original_hold(version) {
        let goldens: Goldens =
            serde_json::from_str(include_str!("../fixtures/goldens/rules.json")).unwrap();
        let backend = Backend::start().await;
        let mut replayed = 0;
        for case in &goldens.cases {
            let mut builder = Relay::builder()
                .toml(&format!(
                    "uri_prefix = {:?}\n[frontend]\nmode = {:?}\ndirectory = \"{{dir}}/front\"",
                    case.uri_prefix, case.frontend_mode
                ))
                .toml(&toml::Table::from_iter([("paths".to_owned(), case.paths.clone())]).to_string())
                .backend(backend.address());
            for (name, content) in &goldens.front {
                builder = builder.file(&format!("front/{name}"), content);
            }
            let (relay, client);
            match version {
                Version::Http1 => {
                    relay = builder.start().await;
                    client = Client::http(relay.http());
                }
                Version::Http2 => {
                    relay = builder.self_signed().start().await;
                    client = Client::https(&relay, version);
                }
            }
            for request in &case.requests {
                let asked = backend.requests().len();
                let answer = client.call(&request.method, &request.path).send().await;
                let said = format!("{request:?} of {:?} below {:?}: {answer:?}", case.paths, case.uri_prefix);
                let file = request.status == 200 && request.proxied.is_none();
                if file && !matches!(request.method.as_str(), "GET" | "HEAD") {
                    assert_eq!(answer.status, 405, "{said}");
                    assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{said}");
                } else {
                    assert_eq!(answer.status, request.status, "{said}");
                    assert_eq!(answer.header("location"), request.location.as_deref(), "{said}");
                    if let Some(body) = &request.body {
                        assert_eq!(answer.text().trim_end(), body.trim_end(), "{said}");
                    }
                }
                let sent = &backend.requests()[asked..];
                let paths: Vec<String> = sent.iter().map(|sent| decoded(sent.path())).collect();
                assert_eq!(paths, Vec::from_iter(request.proxied.clone()), "{said}");
                assert!(sent.iter().all(|sent| sent.method == request.method), "{said}");
                replayed += 1;
            }
        }
        assert_eq!((goldens.cases.len(), replayed), (20, 593));
    }
}

#[tokio::test]
async fn other_methods_than_the_seven_are_not_allowed() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    let client = Client::http(relay.http());
    for method in ["TRACE", "PROPFIND", "get", "LINK"] {
        let answer = client.call(method, "/x").send().await;
        assert_eq!(answer.status, 405, "{method}");
        let allow = answer.header("allow").expect("RFC 9110 15.5.6: 405 comes with Allow");
        assert!(allow.contains("PATCH"), "{allow}");
    }
    assert_eq!(backend.requests().len(), 0);
}

/// Percent-decoded.
fn decoded(path: &str) -> String {
    let mut bytes = path.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).unwrap()
}
