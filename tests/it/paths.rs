//! attacks.md P1 against Flask on Waitress: no spelling of a blocked path reaches its route.

pub(crate) mod variants;

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::harness::{
    Backend, Client, Flask, Frames, Raw, Relay, Version,
    chance::cases,
    frames::{DATA, GOAWAY, RST_STREAM},
    kept::Kept,
    raw, within,
};
use variants::variants;

/// Flask's route behind each rule, the method, and the path that is blocked.
const BLOCKED: &[(&str, &str, &str)] = &[
    ("sova.secret", "GET", "/abc/api/v1/secret"),
    ("sova.announcements", "GET", "/abc/api/v1/announcements-1/messages"),
    ("sova.message", "POST", "/abc/api/v1/channel/7/messages"),
];

const RULES: &str = r#"
    uri_prefix = "abc"
    [[paths]]
    prefix = "/api/v1/secret"
    action = "block"
    [[paths]]
    prefix = "/api/v1/announcements-*/messages"
    action = "block"
    [[paths]]
    prefix = "/api/v1/channel/*/messages"
    methods = ["POST"]
    action = "block"
    [[paths]]
    prefix = "/*"
    action = "proxy"
"#;

/// Variants of each rule's path.
const VARIANTS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_no_spelling_of_a_blocked_path_reaches_flask() {
    let flask = Flask::start(&["--prefix", "abc"]).await;
    let relay = Relay::builder().toml(RULES).backend(flask.address()).start().await;
    for (endpoint, method, path) in BLOCKED {
        let variants = variants(path, VARIANTS);
        assert!(variants.len() >= VARIANTS, "{}", variants.len());
        ask_all(relay.http(), method, &variants).await;
        assert_eq!(flask.reached(endpoint).await, [""; 0], "reached {endpoint} through the relay");

        // Without the relay many of them do: the test means something.
        let every = cases(8, 1);
        let sample: Vec<String> = variants.into_iter().step_by(every).collect();
        ask_all(flask.address(), method, &sample).await;
        let past = flask.reached(endpoint).await.len();
        assert!(past >= sample.len() / 40, "only {past} of {} of {path} mean it to Flask", sample.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_no_spelling_of_a_blocked_path_reaches_flask_over_http_2() {
    let flask = Flask::start(&["--prefix", "abc"]).await;
    let relay = Relay::builder().self_signed().toml(RULES).backend(flask.address()).start().await;
    for (endpoint, method, path) in BLOCKED {
        let variants = variants(path, VARIANTS);
        let sample: Vec<&String> = variants.iter().step_by(cases(4, 1)).collect();
        let answered = ask_all_h2(&relay, method, &sample).await;
        assert!(answered >= sample.len() / 2, "only {answered} of {} were taken for requests", sample.len());
        assert_eq!(flask.reached(endpoint).await, [""; 0], "reached {endpoint} through the relay");
    }
}

#[tokio::test]
async fn p1_honest_paths_still_pass() {
    let flask = Flask::start(&["--prefix", "abc"]).await;
    let relay = Relay::builder().self_signed().toml(RULES).backend(flask.address()).start().await;
    for version in [Version::Http1, Version::Http2] {
        let client = Client::https(&relay, version);
        for (method, path, endpoint) in [
            ("GET", "/abc/api/v1/me", "sova.me"),
            ("GET", "/abc//api/v1/%6de", "sova.me"),
            ("GET", "/abc/api/v1/channel/7/messages", "sova.messages"),
            ("GET", "/abc/api/v1/channel/secret/messages", "sova.messages"),
            (
                "GET",
                "/abc/api/v1/channel/%D8%B9%20%F0%9F%8E%89/messages?q=/abc/api/v1/secret",
                "sova.messages",
            ),
            ("GET", "/abc/api/v1/channel/a;b=c+d,e@f:g!$&'()*~/messages", "sova.messages"),
            ("GET", "/abc/attachment/secret", "sova.attachment"),
            ("GET", "/abc/attachment/a%25b%3Fc%23d.tar.gz", "sova.attachment"),
            ("GET", "/abc/pfp/..x", "sova.pfp"),
            ("GET", "/abc/", "sova.index"),
        ] {
            let answer = client.call(method, path).send().await;
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(flask.reached(endpoint).await.len(), 1, "{path}");
        }
        for path in [
            "/abc/api/v1/secrets",
            "/abc/api/v1/secre",
            "/abc/api/v1/announcements-1/message",
            "/api/v1/secret",
        ] {
            assert_eq!(client.get(path).await.status, 404, "{path}: Flask's own, not our 403");
        }
    }
}

#[tokio::test]
async fn p1_what_two_parsers_could_read_in_two_ways_is_400() {
    let backend = Backend::start().await;
    let relay = Relay::builder().toml(RULES).backend(backend.address()).start().await;
    for path in [
        "/abc%2fx",
        "/abc%2Fx",
        "/abc/./x",
        "/abc/../x",
        "/abc/x/..",
        "/abc/x/.",
        "/abc/%2e%2e/x",
        "/abc/%2E./x",
        "/abc/.%2e/x",
        "/abc/%2e/x",
        "/abc\\x",
        "/abc/..\\x",
        "/abc%5cx",
        "/abc%5Cx",
        "/abc/%00",
        "/abc/x%00.png",
        "/abc/%0d%0aX:1",
        "/abc/%1b",
        "/abc/%7f",
        "/abc/%zz",
        "/abc/%",
        "/abc/%a",
        "/abc/%%32%66",
        "/abc/%c0%af",
        "/abc/%ff",
        "/abc/%ed%a0%80",
        "/abc/%u002f",
    ] {
        let answer = ask(relay.http(), path).await;
        assert_eq!(status(&answer), Some(400), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n{\"error\":\"bad request\"}"), "{path}: {answer}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn p1_what_was_matched_is_what_is_sent() {
    let backend = Backend::start().await;
    let relay = Relay::builder().toml(RULES).backend(backend.address()).start().await;
    for (asked, sent) in [
        ("/abc/%61pi/v1/x", "/abc/api/v1/x"),
        ("//abc//api///v1/x//", "/abc/api/v1/x/"),
        ("/abc/x%252e%252e/y", "/abc/x%252e%252e/y"),
        ("/abc/x;p=1/y", "/abc/x;p=1/y"),
        ("/abc/%D8%b9%d8%B1", "/abc/%D8%B9%D8%B1"),
        ("/abc/a%20b%3fc%23d", "/abc/a%20b%3Fc%23d"),
        ("/abc/x?q=%2f..//\\&r=%zz", "/abc/x?q=%2f..//\\&r=%zz"),
        ("/abc/x?", "/abc/x?"),
        ("http://localhost/abc/x?y", "/abc/x?y"),
    ] {
        let answer = ask(relay.http(), asked).await;
        assert_eq!(status(&answer), Some(200), "{asked}: {answer}");
        let got = backend.last().target;
        // An empty query may be dropped; it means the same.
        assert_eq!(got.trim_end_matches('?'), sent.trim_end_matches('?'), "{asked}");
    }
}

impl Flask {
    /// The paths that reached `endpoint` since the last time.
    async fn reached(&self, endpoint: &str) -> Vec<String> {
        let seen = self.seen().await;
        seen.into_iter()
            .filter(|seen| seen.endpoint.as_deref() == Some(endpoint))
            .map(|seen| seen.path)
            .collect()
    }
}

/// Asks for each, eight at a time, on connections that are kept for as long as they are.
async fn ask_all(address: SocketAddr, method: &'static str, paths: &[String]) {
    let mut asking = JoinSet::new();
    for part in paths.chunks(paths.len().div_ceil(8)) {
        let part = part.to_vec();
        asking.spawn(async move {
            let mut kept = Kept::new(address);
            for path in part {
                let request =
                    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
                let (status, _) = kept.exchange(&[request]).await;
                assert!((200..600).contains(&status), "{path}: {status}");
            }
        });
    }
    while let Some(result) = asking.join_next().await {
        result.unwrap();
    }
}

/// Asks for each over HTTP/2, byte for byte, and says how many were answered: others end their stream.
async fn ask_all_h2(relay: &Relay, method: &str, paths: &[&String]) -> usize {
    const AT_ONCE: usize = 50;
    let mut answered = 0;
    let mut rest = paths;
    while !rest.is_empty() {
        let mut frames = Frames::open(relay, &[]).await;
        let mut stream = 1;
        'connection: while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(AT_ONCE));
            rest = later;
            for path in batch {
                if !frames.ask(stream, method, path).await {
                    break 'connection;
                }
                stream += 2;
            }
            let (mut open, mut taken) = (batch.len(), 0);
            while open > 0 {
                let Some(frame) = within("an answer", frames.next()).await else { break 'connection };
                if frame.kind == DATA {
                    taken += u32::try_from(frame.payload.len()).unwrap();
                }
                if frame.kind == GOAWAY {
                    break 'connection;
                }
                if frame.ends() || frame.kind == RST_STREAM {
                    open -= 1;
                    answered += usize::from(frame.ends());
                }
            }
            if taken > 0 {
                frames.window(0, taken).await;
            }
        }
    }
    answered
}

/// The whole answer to a GET, byte for byte as far as it is text.
async fn ask(address: SocketAddr, target: &str) -> String {
    let mut raw = Raw::plain(address).await;
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
    String::from_utf8_lossy(&raw.read_to_end().await).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.starts_with("HTTP/1.1 ").then(|| raw::status(answer))
}
