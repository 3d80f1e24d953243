//! What a backend can do to a response.

use std::time::Duration;

use super::{Sees, whole};
use crate::harness::faulty::{Step, response};

pub(super) struct Fault {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
    /// What a GET or a POST may come to.
    pub(super) get: Vec<Sees>,
    pub(super) head: Vec<Sees>,
    pub(super) may_be_used_again: bool,
}

fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_owned())
}

/// A fault that shows before the head is whole.
fn refused(name: &str, steps: Vec<Step>) -> Fault {
    let seen = vec![Sees::Error(502)];
    Fault { name: name.to_owned(), steps, get: seen.clone(), head: seen, may_be_used_again: false }
}

/// A fault of the body: HEAD has none.
fn broken(name: &str, steps: Vec<Step>) -> Fault {
    Fault { get: vec![Sees::Broken], head: vec![whole(200, "")], ..refused(name, steps) }
}

/// Strange, and still a whole response.
fn good(name: &str, head: &str, body: &str) -> Fault {
    let steps = vec![send(format!("{head}\r\n\r\n{body}"))];
    Fault { get: vec![whole(200, "good")], head: vec![whole(200, "")], ..refused(name, steps) }
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = connection_faults();
    faults.extend(status_lines());
    faults.extend(framings());
    faults.extend(headers());
    faults.extend(chunked());
    faults.extend(informational());
    faults.extend(leftovers());
    faults
}

fn connection_faults() -> Vec<Fault> {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    const OPEN: &str = "HTTP/1.1 200 OK\r\n\r\ngood";
    let drip =
        Step::Drip(format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(100)).into(), Duration::from_millis(50));
    // With a reset what came before it may be lost.
    let reset_in_body = |name, bytes| Fault {
        get: vec![Sees::Broken, Sees::Error(502)],
        head: vec![whole(200, ""), Sees::Error(502)],
        ..refused(name, vec![send(bytes), Step::Reset])
    };
    vec![
        refused("reset before the head", vec![Step::Reset]),
        refused("closed before the head", vec![Step::Close]),
        refused("reset in the head", vec![send("HTTP/1.1 200 OK\r\nContent-Le"), Step::Reset]),
        refused("closed in the head", vec![send("HTTP/1.1 200 OK\r\nContent-Le"), Step::Close]),
        refused("closed in the status line", vec![send("HTTP/1.1 20"), Step::Close]),
        refused("closed after the status line", vec![send("HTTP/1.1 200 OK\r\n"), Step::Close]),
        refused("closed before the blank line", vec![send("HTTP/1.1 200 OK\r\nX: y\r\n"), Step::Close]),
        refused("blank lines", vec![send("\r\n\r\n"), Step::Close]),
        reset_in_body("reset in the body", LENGTH),
        reset_in_body("reset in a body without a length", OPEN),
        broken("closed before the length is reached", vec![send(LENGTH), Step::Close]),
        broken(
            "closed at the length's first byte",
            vec![send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"), Step::Close],
        ),
        Fault {
            get: vec![Sees::Error(504)],
            head: vec![Sees::Error(504)],
            ..refused("a head by drips", vec![drip])
        },
        Fault {
            get: vec![whole(200, "good")],
            head: vec![whole(200, "")],
            // Its end is the connection's (RFC 9112 6.3): nobody can tell that it was cut, and it is what was said.
            ..refused("no length and closed", vec![send(OPEN), Step::Close])
        },
        Fault {
            get: vec![whole(200, "good")],
            head: vec![whole(200, "")],
            ..refused("HTTP/1.0", vec![send("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood"), Step::Close])
        },
        Fault {
            get: vec![Sees::Broken],
            head: vec![whole(200, "")],
            ..refused(
                "HTTP/1.0, cut",
                vec![send("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\ngood"), Step::Close],
            )
        },
    ]
}

fn status_lines() -> Vec<Fault> {
    let mut faults: Vec<Fault> = [
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 099 Low",
        "HTTP/1.1 000 None",
        "HTTP/1.1 -200 OK",
        "HTTP/1.1200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/11 200 OK",
        "http/1.1 200 OK",
        "HTTPS/1.1 200 OK",
        "ICY 200 OK",
        "200 OK",
        "OK",
        "GET /x HTTP/1.1",
        "HTTP/1.1 200 O\0K",
        "<html>",
        "SSH-2.0-OpenSSH_9.2",
        "\u{1}\u{2}\u{3}",
    ]
    .into_iter()
    .map(|line| refused(&format!("{line:?}"), vec![send(format!("{line}\r\nContent-Length: 4\r\n\r\ngood"))]))
    .collect();
    faults.push(refused("HTTP/2's preface", vec![send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]));
    faults.push(refused("HTTP/2's settings", vec![send(b"\0\0\0\x04\0\0\0\0\0"), Step::Close]));
    faults.push(refused("a TLS alert", vec![send(b"\x15\x03\x03\0\x02\x02\x28"), Step::Close]));
    faults
}

fn framings() -> Vec<Fault> {
    let mut faults: Vec<Fault> = [
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4\r\nX: y\r\ncontent-length: 3",
        "Content-Length: 4, 4",
        "Content-Length: 4, 5",
        "Content-Length: -4",
        "Content-Length: +4",
        "Content-Length: 4.0",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 4;x",
        "Content-Length: ",
        "Content-Length: four",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551615",
        "Content-Length: 99999999999999999999999999",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: ",
        "Content-Length: 14\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 14",
        "Content-Length: 14\r\nTransfer-Encoding: gzip",
    ]
    .into_iter()
    .map(|lines| {
        refused(
            lines,
            vec![send(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n4\r\ngood\r\n0\r\n\r\n")), Step::Close],
        )
    })
    .collect();
    faults.push(broken(
        "more bytes than there can be",
        vec![send("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\ngood"), Step::Close],
    ));
    faults
}

fn headers() -> Vec<Fault> {
    let many: String = (0..200).map(|number| format!("X-Evil-{number}: y\r\n")).collect();
    let long = format!("X-Evil: {}\r\n", "y".repeat(100 * 1024));
    let endless = Step::Flood(format!("X-Evil: {}\r\n", "y".repeat(1000)).into());
    let mut faults: Vec<Fault> = [
        "X-Evil: a\0b\r\n",
        "X-Evil: a\rb\r\n",
        "X-Evil: a\r\r\n",
        "X-Evil: a\u{1}b\r\n",
        "X-Evil: a\u{7f}b\r\n",
        "X-Evil\0: a\r\n",
        "X-Evil : a\r\n",
        "X Evil: a\r\n",
        " X-Evil: a\r\n",
        ": a\r\n",
        "X-Evil\r\n",
        "X-Evil: a\r\n b\r\n",
        "X-Evil: a\r\n\tb: c\r\n",
        "X-Evil(: a\r\n",
        "X-Ev\u{ef}l: a\r\n",
        "Content-Length : 4\r\n",
        &many,
        &long,
    ]
    .into_iter()
    .map(|lines| {
        let name: String = lines.chars().take(40).collect();
        refused(&name, vec![send(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 4\r\n\r\ngood"))])
    })
    .collect();
    faults.push(refused("headers without an end", vec![send("HTTP/1.1 200 OK\r\n"), endless]));
    faults
}

fn chunked() -> Vec<Fault> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(100 * 1024);
    let mut faults: Vec<Fault> = [
        "",
        "4",
        "4\r\n",
        "4\r\ngo",
        "4\r\ngood",
        "4\r\ngood\r\n",
        "4\r\ngood\r\n0",
        "4\r\ngood\r\n0\r\n",
        "4\r\ngood\r\n0\r\nX-Evil: y\r\n",
        "4\r\ngoodXX0\r\n\r\n",
        "4\r\ngoods\r\n0\r\n\r\n",
        "5\r\ngood\r\n0\r\n\r\n",
        "0x4\r\ngood\r\n0\r\n\r\n",
        "+4\r\ngood\r\n0\r\n\r\n",
        "-4\r\ngood\r\n0\r\n\r\n",
        "g\r\ngood\r\n0\r\n\r\n",
        "\r\ngood\r\n0\r\n\r\n",
        "10000000000000004\r\ngood\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\ngood\r\n0\r\n\r\n",
        "4\rgood\r\n0\r\n\r\n",
        "good",
    ]
    .into_iter()
    .map(|body| broken(&format!("chunked: {body:?}"), vec![send(format!("{HEAD}{body}")), Step::Close]))
    .collect();
    for (name, body) in [
        ("a long extension", format!("4;{long}\r\ngood\r\n0\r\n\r\n")),
        ("a long trailer", format!("4\r\ngood\r\n0\r\nX-Evil: {long}\r\n\r\n")),
        ("a thousand trailers", format!("4\r\ngood\r\n0\r\n{}\r\n", "X-Evil: y\r\n".repeat(1000))),
    ] {
        faults.push(broken(name, vec![send(format!("{HEAD}{body}")), Step::Close]));
    }
    for (name, flood) in [
        ("extensions without an end", "x".repeat(1000)),
        ("trailers without an end", "X-Evil: y\r\n".repeat(100)),
    ] {
        let start = if flood.contains(':') { "4\r\ngood\r\n0\r\n" } else { "4;" };
        faults.push(broken(name, vec![send(format!("{HEAD}{start}")), Step::Flood(flood.into())]));
    }
    // These end here, and the response with them is in order.
    faults.push(Fault {
        may_be_used_again: true,
        ..good(
            "trailers",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Evil",
            "4\r\ngood\r\n0\r\nX-Evil: y\r\nContent-Length: 9\r\n\r\n",
        )
    });
    faults
}

fn informational() -> Vec<Fault> {
    let hints = "HTTP/1.1 103 Early Hints\r\nX-Evil: y\r\n\r\n";
    let good = |name, steps| Fault {
        get: vec![whole(200, "good")],
        head: vec![whole(200, "")],
        ..refused(name, steps)
    };
    vec![
        good("many early hints", vec![send(hints.repeat(1000)), send(response("good")), Step::Close]),
        good("100 unasked", vec![send("HTTP/1.1 100 Continue\r\n\r\n"), send(response("good")), Step::Close]),
        refused(
            "a 100 with a body",
            vec![send("HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nevil"), send(response("good"))],
        ),
        refused("early hints without an end", vec![Step::Flood(hints.into())]),
        refused(
            "101 unasked",
            vec![send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nevil")],
        ),
        refused("101 without a word", vec![send("HTTP/1.1 101 Switching Protocols\r\n\r\n")]),
        refused(
            "101 and a response",
            vec![send("HTTP/1.1 101 Switching Protocols\r\n\r\n"), send(response("evil"))],
        ),
    ]
}

/// Whole responses that leave something behind.
fn leftovers() -> Vec<Fault> {
    let evil = response("evil");
    let mut faults = vec![
        good("bytes after it", "HTTP/1.1 200 OK\r\nContent-Length: 4", "goodevil"),
        good("another after it", "HTTP/1.1 200 OK\r\nContent-Length: 4", &format!("good{evil}")),
        good(
            "another after its chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            &format!("4\r\ngood\r\n0\r\n\r\n{evil}"),
        ),
        good("close said and not done", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4", "good"),
        good("HTTP/1.0 and left open", "HTTP/1.0 200 OK\r\nContent-Length: 4", "good"),
    ];
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
        for (head, body) in [
            (String::new(), evil.clone()),
            ("Content-Length: 4\r\n".to_owned(), "evil".to_owned()),
            ("Transfer-Encoding: chunked\r\n".to_owned(), "4\r\nevil\r\n0\r\n\r\n".to_owned()),
        ] {
            let seen = vec![whole(status, ""), Sees::Error(502)];
            let steps = vec![send(format!("HTTP/1.1 {line}\r\n{head}\r\n{body}"))];
            faults.push(Fault {
                get: seen.clone(),
                head: seen,
                ..refused(&format!("{line} {head:?}"), steps)
            });
        }
    }
    faults
}

/// Faults of an event stream after its first event.
pub(super) fn streams() -> Vec<(&'static str, Vec<Step>)> {
    let head =
        |framing: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n");
    let chunks =
        |rest: &str| send(format!("{}9\r\ndata: 1\n\n\r\n{rest}", head("Transfer-Encoding: chunked")));
    let length = format!("{}data: 1\n\n", head("Content-Length: 100"));
    vec![
        ("closed between events", vec![chunks(""), Step::Close]),
        ("closed in an event", vec![chunks("b\r\ndata: evil\n\r\n"), Step::Close]),
        ("closed in a chunk", vec![chunks("ff\r\ndata: evil"), Step::Close]),
        ("closed in a chunk's size", vec![chunks("b"), Step::Close]),
        ("a bad chunk's size", vec![chunks("evil\r\n\r\n")]),
        ("a response in it", vec![chunks(&response("evil"))]),
        ("a chunk without its end", vec![chunks("1\r\n:evil")]),
        ("closed before its length", vec![send(&length), Step::Close]),
        ("ended, and another response", vec![chunks(&format!("0\r\n\r\n{}", response("evil")))]),
        ("a long extension", vec![chunks(&format!("1;{}\r\n:\r\n", "x".repeat(100_000)))]),
        ("trailers", vec![chunks("0\r\nX-Evil: y\r\n\r\n"), Step::Close]),
    ]
}
