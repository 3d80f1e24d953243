//! attacks.md P1 against Flask on Waitress: no spelling of a blocked path reaches its route.

use std::{collections::BTreeSet, net::SocketAddr};

use tokio::task::JoinSet;

use crate::harness::{Backend, Flask, Raw, Relay, raw};

/// Flask's route below each, and the path that is blocked.
const BLOCKED: &[(&str, &str)] =
    &[("sova.secret", "/abc/api/v1/secret"), ("sova.announcements", "/abc/api/v1/announcements-1/messages")];

const RULES: &str = r#"
    uri_prefix = "abc"
    [[paths]]
    prefix = "/api/v1/secret"
    action = "block"
    [[paths]]
    prefix = "/api/v1/announcements-*/messages"
    action = "block"
    [[paths]]
    prefix = "/*"
    action = "proxy"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_no_spelling_of_a_blocked_path_reaches_flask() {
    let flask = Flask::start(&["--prefix", "abc"]).await;
    let relay = Relay::builder().toml(RULES).backend(flask.address()).start().await;
    let mut tried = 0;
    for (endpoint, path) in BLOCKED {
        let variants = variants(path);
        tried += variants.len();

        ask_all(relay.http(), &variants).await;
        let through: Vec<String> = flask.reached(endpoint).await;
        assert_eq!(through, Vec::<String>::new(), "reached {endpoint} through the relay");

        // Without the relay many of them do: the test means something.
        ask_all(flask.address(), &variants).await;
        let past = flask.reached(endpoint).await.len();
        assert!(past >= 100, "only {past} of {} variants of {path} mean it to Flask", variants.len());
    }
    assert!(tried >= 2000, "only {tried} variants");
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

/// Spellings of `path`, most of them meant to be read as `path` by somebody.
fn variants(path: &str) -> Vec<String> {
    let mut variants = BTreeSet::new();
    let encode = |byte: u8, upper: bool| match upper {
        true => format!("%{byte:02X}"),
        false => format!("%{byte:02x}"),
    };
    for (at, byte) in path.bytes().enumerate() {
        let (before, after) = (&path[..at], &path[at + 1..]);
        for upper in [true, false] {
            let once = encode(byte, upper);
            variants.insert(format!("{before}{once}{after}"));
            variants.insert(format!("{before}%25{}{after}", &once[1..]));
            variants.insert(format!("/{before}{once}{after}/"));
            // Two letters at once.
            for (next, byte) in path.bytes().enumerate().skip(at + 1).filter(|(_, byte)| *byte != b'/') {
                let (between, after) = (&path[at + 1..next], &path[next + 1..]);
                variants.insert(format!("{before}{once}{between}{}{after}", encode(byte, !upper)));
            }
        }
        variants.insert(format!("{before}{}{after}", char::from(byte).to_ascii_uppercase()));
        if byte == b'/' {
            for slash in [
                "//",
                "///",
                "/./",
                "/../",
                "/x/../",
                "/%2e/",
                "/%2e%2e/",
                "/x/%2e%2e/",
                "/.%2e/",
                "\\",
                "%5c",
                "/\\",
                "%2f",
                "%2F",
                "/%2f",
                "%2f/",
                "%252f",
                "/;/",
                ";/",
                "/..;/",
                "/%20/",
                "/%00/",
                "%00/",
                "%c0%af",
                "%e0%80%af",
                "%u2215",
                "/%0a",
                "/\t",
                "%0d%0a/",
                "/.//./",
            ] {
                variants.insert(format!("{before}{slash}{after}"));
                variants.insert(format!("{before}{slash}{after}/"));
            }
        }
    }
    for end in [
        "",
        "/",
        "//",
        "/.",
        "/..",
        "/x",
        "/%2e",
        "/x/..",
        "?",
        "?x=1",
        "#",
        "#x",
        ";",
        ";x=1",
        "%20",
        "%00",
        "%0a",
        ".json",
        "%2f",
        "%2f%2e",
        "\\",
        "%3f",
        "%3fx",
        "%23",
        "%",
        "%zz",
        "/;x",
        "%3b",
        "*",
        "%2a",
        "?/../../x",
    ] {
        variants.insert(format!("{path}{end}"));
        variants.insert(format!("http://localhost{path}{end}"));
        variants.insert(format!("http://other.example:80//{path}{end}"));
        variants.insert(format!("/{path}{end}"));
        variants.insert(format!("/x/..{path}{end}"));
        variants.insert(format!("/.{path}{end}"));
        variants.insert(format!("/%2e{path}{end}"));
    }
    // All of it, and each segment of it, encoded.
    let all = |text: &str| text.bytes().map(|byte| encode(byte, true)).collect::<String>();
    variants.insert(format!("/{}", path.split('/').skip(1).map(all).collect::<Vec<_>>().join("/")));
    variants.insert(format!("//{}", path.split('/').skip(1).map(all).collect::<Vec<_>>().join("//")));
    variants.insert(all(path));
    variants.into_iter().collect()
}

/// Asks for each, eight at a time.
async fn ask_all(address: SocketAddr, paths: &[String]) {
    let mut asking = JoinSet::new();
    for part in paths.chunks(paths.len().div_ceil(8)) {
        let part = part.to_vec();
        asking.spawn(async move {
            for path in part {
                let answer = ask(address, &path).await;
                assert!(status(&answer).is_some(), "{path}: {answer:?}");
            }
        });
    }
    while let Some(result) = asking.join_next().await {
        result.unwrap();
    }
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
