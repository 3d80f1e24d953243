use proptest::prelude::*;

use super::{chunks::Chunks, *};

const BOUNDS: Bounds = Bounds { head: 16 << 10, target: 8 << 10, headers: 100 };

/// What is wrong with bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wrong {
    Head(Fault),
    Body(BodyFault),
}

/// Follows whole requests to the last of `bytes`.
fn follow(mut bytes: &[u8]) -> Result<State, Wrong> {
    let mut wire = Wire::new(BOUNDS);
    while !bytes.is_empty() {
        if wire.is_at_a_head() {
            match wire.head(bytes).map_err(Wrong::Head)? {
                Came::Whole(length) => bytes = &bytes[length..],
                Came::Nothing(length @ 1..) => bytes = &bytes[length..],
                Came::Nothing(0) | Came::Part => return Ok(State::Head),
            }
        }
        let (taken, outcome) = wire.body(bytes);
        outcome.map_err(Wrong::Body)?;
        bytes = &bytes[taken..];
    }
    Ok(wire.state)
}

fn head(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

/// A chunked body so far.
fn chunked(body: &str) -> State {
    let mut chunks = Chunks::new();
    assert_eq!(chunks.follow(body.as_bytes()), (body.len(), Ok(())));
    State::Chunked(chunks)
}

#[test]
fn honest_requests_are_followed_from_head_to_head() {
    for (bytes, state) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", State::Head),
        ("\r\nGET / HTTP/1.0\r\n\r\nGET /x?y HTTP/1.1\r\nHost: a\r\n\r\n", State::Head),
        (&head("Content-Length: 3\r\n"), State::Body(3)),
        (&(head("content-length:\t3 \r\n") + "abcGET / HTTP/1.1\r\nA: \u{e9}\r\n\r\n"), State::Head),
        (&(head("Transfer-Encoding: Chunked\r\n") + "3\r\nabc\r\n"), chunked("3\r\nabc\r\n")),
        (&(head("Transfer-Encoding: chunked\r\n") + "A;x=y\r\n0123456789\r\n0\r\n\r\n"), State::Head),
        (&(head("Transfer-Encoding: chunked\r\n") + "0\r\nX: y\r\n\r\nG"), State::Head),
    ] {
        assert_eq!(follow(bytes.as_bytes()), Ok(state), "{bytes:?}");
    }
}

#[test]
fn s1_s2_s3_s6_framing_that_two_parsers_read_in_two_ways_is_refused() {
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\ncontent-length: 4\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 3_0\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length:\r\n",
        "Content-Length: \u{a0}3\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert!(matches!(follow(head(lines).as_bytes()), Err(Wrong::Head(_))), "{lines:?}");
    }
    let http10 = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(follow(http10.as_bytes()), Err(Wrong::Head(_))));
}

#[test]
fn s4_s5_malformed_lines_are_refused() {
    for bytes in [
        head("X : y\r\n"),
        head("X: y\r\n z\r\n"),
        head(" X: y\r\n"),
        head("X\r\n"),
        head(": y\r\n"),
        head("X: a\0b\r\n"),
        head("X: a\rb\r\n"),
        head("X: y\n"),
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\n\r\n".to_owned(),
        "G@T / HTTP/1.1\r\n\r\n".to_owned(),
        "GET /\u{e9} HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        assert!(matches!(follow(bytes.as_bytes()), Err(Wrong::Head(_))), "{bytes:?}");
    }
}

#[test]
fn s7_malformed_chunks_are_refused() {
    let long = format!("3;{}\r\n", "x".repeat(100 << 10));
    for body in [
        "0x3\r\nabc\r\n",
        "+3\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "10000000000000003\r\nabc\r\n",
        "3;a\nb\r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc0\r\n\r\n",
        "\r\n",
        ";\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        &long,
    ] {
        let bytes = head("Transfer-Encoding: chunked\r\n") + body;
        assert!(matches!(follow(bytes.as_bytes()), Err(Wrong::Body(_))), "{:.60?}", body);
    }
}

#[test]
fn s3_codings_that_are_not_ours_are_told_from_those_that_nobody_can_read() {
    let fault = |codings: &str| match follow(head(&format!("Transfer-Encoding: {codings}\r\n")).as_bytes()) {
        Err(Wrong::Head(fault)) => fault,
        other => panic!("{codings}: {other:?}"),
    };
    for codings in ["gzip, chunked", "deflate,gzip ,CHUNKED", "identity, chunked"] {
        assert_eq!(fault(codings), Fault::Coding, "{codings}");
    }
    for codings in ["gzip", "chunked, gzip", "chunked, chunked", ", chunked", "gzip;q=1, chunked", "chunked,"]
    {
        assert!(matches!(fault(codings), Fault::Malformed(_)), "{codings}");
    }
}

#[test]
fn s11_a_target_is_a_path_an_absolute_url_or_the_star_of_options() {
    let outcome = |method: &str, target: &str| {
        follow(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
    };
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/a%20b;c?d=e&f={g:1}|h"),
        ("GET", "/?//x"),
        ("GET", "http://h/"),
        ("GET", "HTTPS://h:1/x?y"),
        ("OPTIONS", "*"),
    ] {
        assert_eq!(outcome(method, target), Ok(State::Head), "{method} {target}");
    }
    for (method, target) in [
        ("GET", "a.b:80"),
        ("GET", "p"),
        ("GET", "*"),
        ("GET", "?x"),
        ("GET", "#f"),
        ("GET", "/#f"),
        ("GET", "/<"),
        ("GET", "http:"),
        ("GET", "http://"),
        ("GET", "http://h/#f"),
        ("GET", "http://h/<"),
        ("OPTIONS", "/*#"),
    ] {
        assert!(
            matches!(outcome(method, target), Err(Wrong::Head(Fault::Malformed(_)))),
            "{method} {target}"
        );
    }
    for method in ["CONNECT", &"M".repeat(33)] {
        assert_eq!(outcome(method, "/"), Err(Wrong::Head(Fault::Method)), "{method}");
    }
}

#[test]
fn s13_a_head_has_bounds_and_passing_them_is_seen_before_it_ends() {
    let fault = |bytes: &str| match follow(bytes.as_bytes()) {
        Err(Wrong::Head(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let path = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 1));
    assert_eq!(follow(path(8 << 10).as_bytes()), Ok(State::Head));
    assert_eq!(fault(&path((8 << 10) + 1)), Fault::Target);
    assert_eq!(fault(&path(70 << 10)), Fault::Target);
    assert_eq!(fault(&path(70 << 10)[..20 << 10]), Fault::Target);
    let headers = |count: usize| head(&"X: y\r\n".repeat(count - 1));
    assert_eq!(follow(headers(100).as_bytes()), Ok(State::Head));
    assert_eq!(fault(&headers(101)), Fault::Headers);
    let large = |length: usize| {
        let rest = head("").len() + "X: \r\n".len();
        head(&format!("X: {}\r\n", "y".repeat(length - rest)))
    };
    assert_eq!(follow(large(16 << 10).as_bytes()), Ok(State::Head));
    assert_eq!(fault(&large((16 << 10) + 1)), Fault::Size);
    assert_eq!(fault(&large(70 << 10)[..17 << 10]), Fault::Size);
}

#[test]
fn other_versions_are_told_from_what_is_none() {
    let outcome = |version: &str| follow(format!("GET / {version}\r\n\r\n").as_bytes());
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"] {
        assert_eq!(outcome(version), Err(Wrong::Head(Fault::Version)), "{version}");
    }
    for version in ["HTTP/1.10", "http/1.1", "HTTP/11", "HTTP/1,1", "HTTP /1.1", "HTTP/1.x", "", "ICY/1.1"] {
        assert!(matches!(outcome(version), Err(Wrong::Head(Fault::Malformed(_)))), "{version}");
    }
}

/// The rough material of requests, so that random bytes are often nearly right.
pub(crate) fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => Just("GET / HTTP/1.1\r\n"),
        2 => Just("HEAD http://a/ HTTP/1.0\r\n"),
        4 => Just("Host: a\r\n"),
        3 => Just("Content-Length: 3\r\n"),
        3 => Just("Transfer-Encoding: chunked\r\n"),
        6 => Just("\r\n"),
        4 => Just("abc"),
        3 => Just("3\r\nabc\r\n"),
        3 => Just("0\r\n\r\n"),
        2 => Just("X: y\r\n"),
        1 => Just("\r"),
        1 => Just("\n"),
        1 => Just("\0"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Honest requests, one after the other, of which a few bytes are changed, doubled or left out.
pub(crate) fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let request = prop_oneof![
        Just("GET /a?b=c HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n"),
        Just("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello=world"),
        Just(
            "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: v\r\n\r\n"
        ),
        Just("\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"),
        Just("DELETE http://a/b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    ];
    let byte = prop_oneof![
        Just(b'\r'),
        Just(b'\n'),
        Just(b' '),
        Just(b'\t'),
        Just(b':'),
        Just(b';'),
        Just(b','),
        Just(b'0'),
        Just(b'/'),
        Just(0),
        Just(0x0b),
        Just(0x80),
        any::<u8>(),
    ];
    let change = (any::<prop::sample::Index>(), 0..4_u8, byte);
    (prop::collection::vec(request, 1..4), prop::collection::vec(change, 0..4)).prop_map(
        |(requests, changes)| {
            let mut bytes = requests.concat().into_bytes();
            for (at, kind, byte) in changes {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            bytes
        },
    )
}

/// hyper's own reader finds this head, to this length, and can do something with it.
fn assert_hyper_agrees(bytes: &[u8], length: usize) {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    assert_eq!(parsed, Ok(httparse::Status::Complete(length)), "{:?}", String::from_utf8_lossy(bytes));
    http::Method::from_bytes(request.method.unwrap().as_bytes()).unwrap();
    http::Uri::try_from(request.path.unwrap()).unwrap();
    for header in request.headers {
        http::HeaderName::from_bytes(header.name.as_bytes()).unwrap();
        http::HeaderValue::from_bytes(header.value).unwrap();
    }
}

/// httparse agrees on every chunk of a body that was taken.
fn assert_httparse_agrees_on_chunks(mut bytes: &[u8]) {
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(bytes) else {
            panic!("{:?}", String::from_utf8_lossy(bytes));
        };
        bytes = &bytes[start..];
        if size == 0 {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let Ok(httparse::Status::Complete((length, _))) = httparse::parse_headers(bytes, &mut headers)
            else {
                panic!("{:?}", String::from_utf8_lossy(bytes));
            };
            return assert_eq!(length, bytes.len());
        }
        bytes = bytes[usize::try_from(size).unwrap()..].strip_prefix(b"\r\n").unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn s1_to_s7_what_is_taken_is_what_hyper_takes(bytes in prop_oneof![soup(), mutated()]) {
        let mut wire = Wire::new(BOUNDS);
        let mut rest = &bytes[..];
        while let Ok(Came::Whole(length)) = wire.head(rest) {
            assert_hyper_agrees(rest, length);
            rest = &rest[length..];
            let is_chunked = matches!(wire.state, State::Chunked(_));
            let (taken, outcome) = wire.body(rest);
            if outcome.is_err() || !wire.is_at_a_head() {
                break;
            }
            if is_chunked {
                assert_httparse_agrees_on_chunks(&rest[..taken]);
            }
            rest = &rest[taken..];
        }
    }

    #[test]
    fn s7_a_chunked_body_is_the_same_however_it_is_cut(
        bytes in mutated(), cuts in prop::collection::vec(1_usize..9, 0..60)
    ) {
        let start = memchr::memmem::find(&bytes, b"\r\n\r\n").map_or(0, |at| at + 4);
        let bytes = &bytes[start..];
        let mut whole = Chunks::new();
        let expected = whole.follow(bytes);
        let mut pieces = Chunks::new();
        let (mut taken, mut outcome, mut rest) = (0, Ok(()), bytes);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            let (here, ended) = pieces.follow(piece);
            taken += here;
            (outcome, rest) = (ended, after);
            if ended.is_err() || pieces.have_ended() {
                break;
            }
        }
        prop_assert_eq!((taken, outcome), expected);
        prop_assert_eq!(pieces, whole);
    }
}
