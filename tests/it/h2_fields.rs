//! Requests in HTTP/2 that are no requests, or that two parsers would read in two ways (RFC 9113, section 8;
//! attacks.md D1, D2).

use crate::{
    h2_cases::{
        Case,
        Outcome::{self, Connection, Status, Stream},
        PROTOCOL_ERROR, REFUSED, SERVED, headers, outcome, request, run, served_by,
    },
    harness::frames::{DATA, END_STREAM, frame},
};

type Field<'a> = (&'a [u8], &'a [u8]);

const MALFORMED: Outcome = Stream(PROTOCOL_ERROR);

/// A GET with these fields beside those it needs.
fn with(fields: &[Field<'_>]) -> Vec<u8> {
    let base = request("GET", REFUSED).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    headers(END_STREAM, 1, &[&base[..], fields].concat())
}

/// A GET whose pseudo-header is this.
fn instead(name: &str, value: &[u8]) -> Vec<u8> {
    let base = request("GET", REFUSED).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    headers(
        END_STREAM,
        1,
        &base.map(|field| if field.0 == name.as_bytes() { (field.0, value) } else { field }),
    )
}

/// A GET without that pseudo-header.
fn without(name: &str) -> Vec<u8> {
    headers(
        END_STREAM,
        1,
        &request("GET", REFUSED).into_iter().filter(|field| field.0 != name).collect::<Vec<_>>(),
    )
}

/// Only these fields.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(END_STREAM, 1, fields)
}

/// A POST with these lengths and this body.
fn post(lengths: &[&str], body: &[u8]) -> Vec<u8> {
    let lengths: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
    let head = headers(0, 1, &[&request("POST", REFUSED)[..], &lengths].concat());
    [head, frame(DATA, END_STREAM, 1, body)].concat()
}

#[tokio::test]
async fn d1_connection_headers_are_malformed() {
    let fields: &[(&str, &str)] = &[
        ("connection", "close"),
        ("connection", "te"),
        ("connection", ""),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", ""),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", "trailers;q=0.5"),
        ("te", ""),
    ];
    let case = |(name, value): &(&'static str, &'static str)| {
        (*name, with(&[(name.as_bytes(), value.as_bytes())]), MALFORMED)
    };
    let mut cases: Vec<Case> = fields.iter().map(case).collect();
    cases.push(("te: trailers is in order", served(&[("te", "trailers")]), Status(200)));
    run(cases).await;
}

/// A GET that is in order, with these fields too.
fn served(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(END_STREAM, 1, &[&request("GET", SERVED)[..], fields].concat())
}

#[tokio::test]
async fn d1_names_and_values_that_http1_would_read_otherwise_are_malformed() {
    let names: &[(&str, &[u8])] = &[
        ("an upper-case name", b"X-Upper"),
        ("an upper-case letter at the end", b"hosT"),
        ("a blank in a name", b"x y"),
        ("a blank before the colon", b"x "),
        ("a colon in a name", b"x:y"),
        ("a colon at a name's end", b"x:"),
        ("NUL in a name", b"x\0y"),
        ("CR in a name", b"x\ry"),
        ("LF in a name", b"x\ny"),
        ("a whole line in a name", b"x: y\r\nhost"),
        ("a tab in a name", b"x\ty"),
        ("DEL in a name", b"x\x7f"),
        ("a byte beyond ASCII in a name", b"x\xff"),
        ("a separator in a name", b"x(y)"),
        ("an empty name", b""),
    ];
    let values: &[(&str, &[u8])] = &[
        ("NUL in a value", b"a\0b"),
        ("CR in a value", b"a\rb"),
        ("LF in a value", b"a\nb"),
        ("a line end in a value", b"a\r\nx-other: b"),
        ("a whole request in a value", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("LF at a value's end", b"a\n"),
        ("CR at a value's start", b"\ra"),
        ("a control character in a value", b"a\x01b"),
        ("DEL in a value", b"a\x7fb"),
    ];
    let blanks: &[(&str, &[u8])] = &[
        ("a blank at a value's start", b" a"),
        ("a blank at a value's end", b"a "),
        ("a tab at a value's start", b"\ta"),
        ("a tab at a value's end", b"a\t"),
        ("a value of a blank", b" "),
    ];
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(names.iter().map(|(what, name)| (*what, with(&[(name, b"1")]), Connection(PROTOCOL_ERROR))));
    cases.extend(
        values.iter().map(|(what, value)| (*what, with(&[(b"x-y", value)]), Connection(PROTOCOL_ERROR))),
    );
    cases.extend(blanks.iter().map(|(what, value)| (*what, with(&[(b"x-y", value)]), Status(400))));
    run(cases).await;
}

#[tokio::test]
async fn d1_pseudo_headers_come_once_first_and_whole() {
    let double = |name: &'static str, value: &'static str| {
        let base = request("GET", REFUSED);
        headers(END_STREAM, 1, &[&base[..], &[(name, value)]].concat())
    };
    let late = |name: &str| {
        let (late, first): (Vec<_>, Vec<_>) =
            request("GET", REFUSED).into_iter().partition(|field| field.0 == name);
        headers(END_STREAM, 1, &[&first[..], &[("x-y", "1")], &late].concat())
    };
    let method = |method: &'static str| instead(":method", method.as_bytes());
    let path = |path: &'static str| instead(":path", path.as_bytes());
    let scheme = |scheme: &'static str| instead(":scheme", scheme.as_bytes());
    run(vec![
        ("no :method", without(":method"), MALFORMED),
        ("no :scheme", without(":scheme"), MALFORMED),
        ("no :path", without(":path"), MALFORMED),
        ("no field at all", only(&[]), MALFORMED),
        ("two :method", double(":method", "GET"), MALFORMED),
        ("two :scheme", double(":scheme", "https"), MALFORMED),
        ("two :path", double(":path", REFUSED), MALFORMED),
        ("another :path", double(":path", "/other"), MALFORMED),
        ("two :authority", double(":authority", "localhost"), MALFORMED),
        ("a late :method", late(":method"), MALFORMED),
        ("a late :scheme", late(":scheme"), MALFORMED),
        ("a late :path", late(":path"), MALFORMED),
        ("a late :authority", late(":authority"), MALFORMED),
        ("an unknown pseudo-header", double(":unknown", "1"), Connection(PROTOCOL_ERROR)),
        ("a pseudo-header in upper case", double(":Path", "/"), Connection(PROTOCOL_ERROR)),
        ("a colon alone", double(":", "/"), Connection(PROTOCOL_ERROR)),
        (":status in a request", double(":status", "200"), MALFORMED),
        (":protocol without CONNECT", double(":protocol", "websocket"), MALFORMED),
        ("an empty :path", path(""), MALFORMED),
        (":path without a slash", path("refused"), MALFORMED),
        (":path that is a query", path("?refused"), Status(400)),
        (":path that is absolute", path("https://localhost/refused"), MALFORMED),
        (":path that is an authority", path("localhost:443"), MALFORMED),
        (":path of GET that is *", path("*"), Status(400)),
        ("a blank in :path", path("/refused /x"), MALFORMED),
        ("a version in :path", path("/refused HTTP/1.1"), MALFORMED),
        ("a line end in :path", path("/refused\r\nx: y"), MALFORMED),
        ("LF in :path", path("/refused\n"), MALFORMED),
        ("NUL in :path", path("/refused\0"), MALFORMED),
        ("a tab in :path", path("/refused\t"), MALFORMED),
        ("DEL in :path", path("/refused\x7f"), MALFORMED),
        ("an empty :method", method(""), Connection(PROTOCOL_ERROR)),
        ("a blank in :method", method("GET /refused"), Connection(PROTOCOL_ERROR)),
        ("a line end in :method", method("GET\r\n"), Connection(PROTOCOL_ERROR)),
        ("a separator in :method", method("GET:"), Connection(PROTOCOL_ERROR)),
        ("a method in lower case", method("get"), Status(405)),
        ("TRACE", method("TRACE"), Status(405)),
        ("an unknown method", method("PROPFIND"), Status(405)),
        ("HTTP/2's own preface", method("PRI"), Status(405)),
        ("an empty :scheme", scheme(""), Status(400)),
        ("a blank in :scheme", scheme("ht tp"), MALFORMED),
        ("a whole URL in :scheme", scheme("https://localhost/?"), MALFORMED),
        ("another :scheme", scheme("ftp"), Status(400)),
    ])
    .await;
}

#[tokio::test]
async fn d2_one_authority_that_is_one() {
    let authority = |authority: &'static str| instead(":authority", authority.as_bytes());
    let host = |host: &'static str| with(&[(b"host", host.as_bytes())]);
    let no_authority = |fields: &[(&str, &str)]| {
        let base = request("GET", REFUSED);
        headers(END_STREAM, 1, &[&[base[0], base[1], base[3]], fields].concat())
    };
    let connect =
        |fields: &[(&str, &str)]| headers(END_STREAM, 1, &[&[(":method", "CONNECT")], fields].concat());
    run(vec![
        ("another host", host("other"), Status(400)),
        ("another port", host("localhost:444"), Status(400)),
        ("a host that is none", host("a, b"), Status(400)),
        ("an empty host", host(""), Status(400)),
        ("a host with user information", host("u@localhost"), Status(400)),
        ("a host that is a URL", host("https://localhost"), Status(400)),
        ("two hosts", with(&[(b"host", b"localhost"), (b"host", b"localhost")]), Status(400)),
        ("two hosts that differ", with(&[(b"host", b"localhost"), (b"host", b"other")]), Status(400)),
        ("neither", no_authority(&[]), Status(400)),
        ("no :authority and two hosts", no_authority(&[("host", "a"), ("host", "b")]), Status(400)),
        ("no :authority and a host that is none", no_authority(&[("host", "a/b")]), Status(400)),
        ("user information", authority("u@localhost"), Status(400)),
        ("user and password", authority("u:p@localhost"), Status(400)),
        ("an empty :authority", authority(""), MALFORMED),
        ("a list", authority("localhost, other"), MALFORMED),
        ("a path", authority("localhost/x"), MALFORMED),
        ("a blank", authority("local host"), MALFORMED),
        ("a line end", authority("localhost\r\nx: y"), MALFORMED),
        ("a port that is none", authority("localhost:x"), Status(400)),
        ("an empty port", authority("localhost:"), Status(400)),
        ("a port too large", authority("localhost:65536"), Status(400)),
        ("a port alone", authority(":443"), Status(400)),
        ("CONNECT", connect(&[(":authority", "localhost:443")]), Status(405)),
        ("CONNECT without :authority", connect(&[]), Status(405)),
        ("CONNECT with a path", connect(&request("GET", REFUSED)[1..]), MALFORMED),
        (
            "extended CONNECT, which we do not offer",
            connect(&[&request("GET", REFUSED)[1..], &[(":protocol", "websocket")]].concat()),
            MALFORMED,
        ),
        ("the same host", served(&[("host", "localhost")]), Status(200)),
        ("the same host in other letters", served(&[("host", "LOCALHOST")]), Status(200)),
    ])
    .await;
}

#[tokio::test]
async fn d1_a_content_length_is_one_number_and_true() {
    run(vec![
        ("no number", post(&["x"], b"abc"), MALFORMED),
        ("empty", post(&[""], b"abc"), MALFORMED),
        ("a sign", post(&["+3"], b"abc"), MALFORMED),
        ("negative", post(&["-3"], b"abc"), MALFORMED),
        ("hexadecimal", post(&["0x3"], b"abc"), MALFORMED),
        ("a list", post(&["3, 3"], b"abc"), MALFORMED),
        ("a blank before it", post(&[" 3"], b"abc"), MALFORMED),
        ("a blank after it", post(&["3 "], b"abc"), MALFORMED),
        ("2^64 and 3", post(&["18446744073709551619"], b"abc"), MALFORMED),
        ("two that differ", post(&["3", "4"], b"abc"), MALFORMED),
        ("two that are equal", post(&["3", "3"], b"abc"), Status(400)),
        ("too long", post(&["4"], b"abc"), MALFORMED),
        ("too short", post(&["2"], b"abc"), MALFORMED),
        ("none where there is a body", post(&["0"], b"abc"), MALFORMED),
        ("one where there is no DATA", with(&[(b"content-length", b"3")]), MALFORMED),
        (
            "true",
            [
                headers(0, 1, &[&request("POST", SERVED)[..], &[("content-length", "3")]].concat()),
                frame(DATA, END_STREAM, 1, b"abc"),
            ]
            .concat(),
            Status(200),
        ),
    ])
    .await;
}

#[tokio::test]
async fn d1_trailers_are_fields_and_nothing_else() {
    let after = |fields: &[(&str, &str)], flags: u8| {
        let head = headers(0, 1, &request("POST", REFUSED));
        [head, frame(DATA, 0, 1, b"abc"), headers(flags, 1, fields)].concat()
    };
    run(vec![
        ("an unknown pseudo-header", after(&[(":x", "1")], END_STREAM), Connection(PROTOCOL_ERROR)),
        ("an upper-case name", after(&[("X-Y", "1")], END_STREAM), Connection(PROTOCOL_ERROR)),
        ("a connection header", after(&[("connection", "close")], END_STREAM), MALFORMED),
        ("a coding", after(&[("transfer-encoding", "chunked")], END_STREAM), MALFORMED),
        ("a line end", after(&[("x-y", "a\r\nb")], END_STREAM), Connection(PROTOCOL_ERROR)),
        ("no end of the stream", after(&[("x-y", "1")], 0), MALFORMED),
        (
            "a length that is not reached",
            {
                let head =
                    headers(0, 1, &[&request("POST", REFUSED)[..], &[("content-length", "9")]].concat());
                [head, frame(DATA, 0, 1, b"abc"), headers(END_STREAM, 1, &[("x-y", "1")])].concat()
            },
            MALFORMED,
        ),
        (
            "in order",
            {
                let head = headers(0, 1, &request("POST", SERVED));
                [head, frame(DATA, 0, 1, b"abc"), headers(END_STREAM, 1, &[("x-y", "1")])].concat()
            },
            Status(200),
        ),
    ])
    .await;
}

/// The http crate takes a fragment off a path, and h2 pseudo-headers off trailers: that much is never seen here. What
/// goes upstream is canonical all the same.
#[tokio::test]
async fn d1_what_is_taken_off_before_it_is_seen_does_not_go_upstream() {
    let (backend, relay) = served_by().await;
    let fragment = instead(":path", b"/served?q#fragment");
    assert_eq!(outcome(&relay, &fragment).await, Status(200));
    let head = headers(0, 1, &request("POST", SERVED));
    let trailers = headers(END_STREAM, 1, &[(":path", "/other"), ("x-y", "1")]);
    let pseudo = [head, frame(DATA, 0, 1, b"abc"), trailers].concat();
    assert_eq!(outcome(&relay, &pseudo).await, Status(200));
    let requests = backend.requests();
    let targets: Vec<_> = requests.iter().map(|request| &*request.target).collect();
    assert_eq!(targets, ["/served?q", SERVED, SERVED, SERVED]);
    assert!(requests.iter().all(|request| request.trailers.is_empty()), "{requests:?}");
}
