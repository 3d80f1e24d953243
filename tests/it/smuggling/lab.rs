//! A relay between a client that writes bytes and a backend that records them.

use crate::harness::{
    Backend, Raw, Relay, Reply,
    backend::Recorded,
    raw,
    relay::{RelayBuilder, field},
};

/// What every attack tries to have read as a request.
pub(super) const SMUGGLED: &str = "GET /api/v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The relay over TLS and over plain HTTP, each before a backend of its own.
pub(super) struct Lab {
    sides: [Side; 2],
}

struct Side {
    name: &'static str,
    backend: Backend,
    relay: Relay,
    /// Access lines that were looked at.
    lines: usize,
}

/// A response as it came, and what came behind it.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Lab {
    /// Rules that a request can meet, besides the API that is proxied.
    const RULES: &str = "
        [[paths]]
        prefix = \"/api/v1/blocked\"
        action = \"block\"
        [[paths]]
        prefix = \"/api/v1/moved\"
        action = \"redirect\"
        target = \"/there\"
        [[paths]]
        prefix = \"/api/v1/form\"
        action = \"proxy\"
        block_files = true
        [[paths]]
        prefix = \"/api/v1\"
        action = \"proxy\"";

    pub(super) async fn start() -> Self {
        Self::with("").await
    }

    pub(super) async fn with(toml: &str) -> Self {
        let tls = Side::start("TLS", Relay::builder().self_signed(), toml);
        let plain = Side::start("plain", Relay::builder(), toml);
        let (tls, plain) = tokio::join!(tls, plain);
        Self { sides: [tls, plain] }
    }

    /// The bytes are answered with `status` in JSON, and the connection is closed: nothing behind them is read, and
    /// the backend has seen nothing.
    pub(super) async fn refuses(&mut self, bytes: impl AsRef<[u8]>, status: u16) {
        self.refuses_any(bytes, &[status]).await;
    }

    /// The same, with this header.
    pub(super) async fn refuses_with(&mut self, bytes: impl AsRef<[u8]>, status: u16, header: (&str, &str)) {
        self.refuses_any(&bytes, &[status]).await;
        for side in &mut self.sides {
            let answer = side.last_answer(bytes.as_ref()).await;
            assert_eq!(raw::header(&answer.head, header.0), Some(header.1), "{}", answer.head);
            side.access().await;
        }
    }

    /// The same, where the standard leaves a choice.
    pub(super) async fn refuses_any(&mut self, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
        let bytes = bytes.as_ref();
        for side in &mut self.sides {
            let what = format!("{}: {}", side.name, shown(bytes));
            let before = side.backend.requests().len();
            let answer = side.last_answer(bytes).await;
            let status = answer.assert_is_error(&what);
            assert!(statuses.contains(&status), "{what}: {}", answer.head);
            let seen = side.backend.requests().split_off(before);
            assert!(seen.is_empty(), "{what}: {seen:#?}");
            let line = side.access().await;
            for (name, value) in [("status", &*status.to_string()), ("path", "-"), ("end", "whole")] {
                assert_eq!(field(&line, name).as_deref(), Some(value), "{what}: {line}");
            }
            assert!(line.contains(" error=") && !line.contains("smuggled"), "{what}: {line}");
        }
    }

    /// A body that breaks is answered 400, and what the backend has of it is no whole request.
    pub(super) async fn breaks_off(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        for side in &mut self.sides {
            let what = format!("{}: {}", side.name, shown(bytes));
            let before = side.backend.requests().len();
            let answer = side.last_answer(bytes).await;
            assert_eq!(answer.assert_is_error(&what), 400, "{what}: {}", answer.head);
            let line = side.access().await;
            assert_eq!(field(&line, "status").as_deref(), Some("400"), "{what}: {line}");
            assert!(line.contains("chunk") || line.contains("trailer"), "{what}: {line}");
            let broken_off =
                |requests: &Vec<Recorded>| requests[before..].iter().all(|request| request.abandoned);
            side.backend.wait("the relay to break off", broken_off).await;
            let seen = side.backend.requests().split_off(before);
            assert!(
                seen.len() <= 1 && seen.iter().all(|request| request.ended.is_none()),
                "{what}: {seen:#?}"
            );
        }
    }

    /// All of the bytes are requests, answered with these statuses, and the backend sees these targets, each in one
    /// canonical request.
    pub(super) async fn takes(&mut self, bytes: impl AsRef<[u8]>, statuses: &[u16], targets: &[&str]) {
        let bytes = bytes.as_ref();
        for side in &mut self.sides {
            let what = format!("{}: {}", side.name, shown(bytes));
            let before = side.backend.requests().len();
            let mut raw = side.connect().await;
            raw.send(bytes).await;
            for status in statuses {
                let answer = raw.read_response().await;
                assert_eq!(answer.status(), *status, "{what}: {}", answer.head);
                side.access().await;
            }
            let seen = side.backend.requests().split_off(before);
            assert_eq!(seen.iter().map(|request| &*request.target).collect::<Vec<_>>(), targets, "{what}");
            for request in &seen {
                assert_is_canonical(request, &what);
            }
        }
    }

    /// Of these bytes the first request is answered with `status`. What is behind it is either the request that it
    /// looks like, or not read at all: nothing of a body is ever a request.
    pub(super) async fn answers_or_closes(&mut self, bytes: impl AsRef<[u8]>, status: u16) {
        let bytes = bytes.as_ref();
        for side in &mut self.sides {
            let what = format!("{}: {}", side.name, shown(bytes));
            let mut raw = side.connect().await;
            raw.try_send(bytes).await;
            let answer = raw.read_response().await;
            assert_eq!(answer.status(), status, "{what}: {}", answer.head);
            raw.try_send(b"GET /api/v1/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
            let rest = raw.read_to_end().await;
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {rest}");
            assert!(rest.matches("HTTP/1.1").count() <= 1, "{what}: {rest}");
            let seen = side.backend.requests();
            // A body that is too large is noticed on the way.
            let is_fine = |request: &Recorded| request.target == "/api/v1/last" || request.ended.is_none();
            assert!(seen.iter().all(is_fine), "{what}: {seen:#?}");
        }
    }

    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.sides.iter().map(|side| &side.backend)
    }
}

impl Side {
    async fn start(name: &'static str, relay: RelayBuilder, toml: &str) -> Self {
        let backend = Backend::builder().on("/api/v1/echo", |_| Reply::echo()).start().await;
        let relay = relay.toml(Lab::RULES).toml(toml).backend(backend.address()).start().await;
        Self { name, backend, relay, lines: 0 }
    }

    async fn connect(&self) -> Raw {
        if self.name == "TLS" { Raw::tls(&self.relay).await } else { Raw::plain(self.relay.http()).await }
    }

    /// The one answer to these bytes on a connection that the relay closes after it.
    async fn last_answer(&self, bytes: &[u8]) -> Answer {
        let mut raw = self.connect().await;
        // It may close before all of a large head was sent.
        raw.try_send(bytes).await;
        let all = raw.read_to_end().await;
        let end = all.windows(4).position(|part| part == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
        Answer { head: String::from_utf8_lossy(&all[..end]).into_owned(), body: all[end..].to_vec() }
    }

    /// The next access line.
    async fn access(&mut self) -> String {
        let wanted = self.lines;
        self.lines += 1;
        let nth =
            |lines: &[String]| lines.iter().filter(|line| line.contains(" access ")).nth(wanted).cloned();
        self.relay.lines_until("an access line", nth).await
    }
}

impl Answer {
    /// It is one error in JSON, after which the connection ends.
    fn assert_is_error(&self, what: &str) -> u16 {
        assert!(self.head.starts_with("HTTP/1.1 "), "{what}: {:?}", self.head);
        let status = raw::status(&self.head);
        let message = match status {
            400 => "bad request",
            405 => "method not allowed",
            408 => "request timeout",
            414 => "uri too long",
            417 => "expectation failed",
            431 => "request header fields too large",
            501 => "not implemented",
            505 => "http version not supported",
            _ => panic!("{what}: {}", self.head),
        };
        assert_eq!(String::from_utf8_lossy(&self.body), format!("{{\"error\":\"{message}\"}}"), "{what}");
        assert_eq!(raw::header(&self.head, "content-type"), Some("application/json"), "{what}");
        assert_eq!(raw::header(&self.head, "connection"), Some("close"), "{what}");
        assert_eq!(raw::header(&self.head, "content-length"), Some(&*self.body.len().to_string()), "{what}");
        status
    }
}

/// One request line, CRLF everywhere, one Host, one framing header at the most, no trailers.
pub(super) fn assert_is_canonical(request: &Recorded, what: &str) {
    let head = &request.head;
    let without = head.replace("\r\n", "");
    assert!(!without.contains(['\r', '\n', '\0']), "{what}: {head:?}");
    assert!(head.lines().next().unwrap().ends_with(" HTTP/1.1"), "{what}: {head}");
    assert_eq!(request.headers("host").len(), 1, "{what}: {head}");
    let framing = request.headers("content-length").len() + request.headers("transfer-encoding").len();
    assert!(framing <= 1, "{what}: {head}");
    let switches = request.header("upgrade") == Some("websocket");
    assert_eq!(request.header("connection"), switches.then_some("upgrade"), "{what}: {head}");
    for name in ["te", "trailer", "keep-alive", "expect", "http2-settings"] {
        assert_eq!(request.headers(name).len(), 0, "{what}: {head}");
    }
    assert_eq!(request.trailers, "", "{what}");
}

/// The beginning of what was sent.
fn shown(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]))
}

/// A POST with these header lines, each with its line end, and a second request where a body would be.
pub(super) fn post(lines: impl AsRef<[u8]>, body: &str) -> Vec<u8> {
    let mut bytes = b"POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    bytes.extend_from_slice(lines.as_ref());
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_bytes());
    bytes.extend_from_slice(SMUGGLED.as_bytes());
    bytes
}
