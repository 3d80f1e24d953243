//! S7, S8, S12: what is in a body.

use super::lab::{Lab, SMUGGLED};

fn chunked(body: &[u8]) -> Vec<u8> {
    let head = b"POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    [&head[..], body, SMUGGLED.as_bytes()].concat()
}

#[tokio::test]
async fn s7_a_chunk_that_two_parsers_read_in_two_ways_is_400() {
    let mut lab = Lab::start().await;
    let long = |extension: &str, length: usize| format!("3;{}\r\nabc\r\n0\r\n\r\n", extension.repeat(length));
    let (kilobytes, line) = (long("x", 100 << 10), long("ab;", 100));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(3000));
    let trailer = format!("0\r\nX: {}\r\n\r\n", "y".repeat(9 << 10));
    for body in [
        // Sizes.
        &b"0x3\r\nabc\r\n0\r\n\r\n"[..],
        b"0X3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\t3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\t\r\nabc\r\n0\r\n\r\n",
        b"3\x0b\r\nabc\r\n0\r\n\r\n",
        b"3\x0c\r\nabc\r\n0\r\n\r\n",
        b"3\0\r\nabc\r\n0\r\n\r\n",
        b"\x003\r\nabc\r\n0\r\n\r\n",
        b"3\xa0\r\nabc\r\n0\r\n\r\n",
        b"3_0\r\nabc\r\n0\r\n\r\n",
        b"3.0\r\nabc\r\n0\r\n\r\n",
        b"3,\r\nabc\r\n0\r\n\r\n",
        b"3h\r\nabc\r\n0\r\n\r\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"\"3\"\r\nabc\r\n0\r\n\r\n",
        b"10000000000000003\r\nabc\r\n0\r\n\r\n",
        b"00000000000000003\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"-0\r\n\r\n",
        b"0x0\r\n\r\n",
        b"\r\n",
        b"\r\n0\r\n\r\n",
        b";\r\n",
        b";x\r\nabc\r\n0\r\n\r\n",
        // Line ends.
        b"3\nabc\n0\n\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\rabc\r\n0\r\n\r\n",
        b"3\r\rabc\r\n0\r\n\r\n",
        b"3\r\r\nabc\r\n0\r\n\r\n",
        b"3\n\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\r0\r\n\r\n",
        b"3\r\nabc\r\r\n0\r\n\r\n",
        b"3\r\nabc\n\r0\r\n\r\n",
        b"3\r\nabc\r\n0\n\r\n",
        b"3\r\nabc\r\n0\r\n\n",
        b"3\r\nabc\r\n0\n\n",
        b"3\r\nabc\r\n0\r\r\n",
        b"3\r\nabc\r\n0\r\n\r\r",
        // TERM.EXT and EXT.TERM: a line end in an extension for one of two readers.
        b"3;\nabc\r\n0\r\n\r\n",
        b"3;x\ny\r\nabc\r\n0\r\n\r\n",
        b"3;x\n\r\nabc\r\n0\r\n\r\n",
        b"3;x\ry\r\nabc\r\n0\r\n\r\n",
        b"3;x\r\r\nabc\r\n0\r\n\r\n",
        b"3;\"\n\"\r\nabc\r\n0\r\n\r\n",
        b"3;\"\r\"\r\nabc\r\n0\r\n\r\n",
        b"3;x=\0\r\nabc\r\n0\r\n\r\n",
        b"3;x\x0b\r\nabc\r\n0\r\n\r\n",
        b"3;x\x7f\r\nabc\r\n0\r\n\r\n",
        b"3 ;x\r\nabc\r\n0\r\n\r\n",
        b"3\t;x\r\nabc\r\n0\r\n\r\n",
        b"0;\n\r\n\r\n",
        b"0;x\n\r\n",
        // TERM.SPILL and SPILL.TERM: more data than was said, or less.
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabcde0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabcXX0\r\n\r\n",
        b"3\r\nabc\r0\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"3\r\n\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n\r\n0\r\n\r\n",
        b"3\r\nabc\r\n 0\r\n\r\n",
        b"3\r\nabc\r\nx\r\n",
        // Trailers that are none.
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: y\r\n\n",
        b"0\r\nX: a\0b\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n: y\r\n\r\n",
        b"0\r\n\xe9: y\r\n\r\n",
        b"0\r\n \r\n\r\n",
        b"0\r\nGET /api/v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
        // Sizes of what is thrown away.
        kilobytes.as_bytes(),
        line.as_bytes(),
        trailers.as_bytes(),
        trailer.as_bytes(),
    ] {
        lab.breaks_off(chunked(body)).await;
    }
}

#[tokio::test]
async fn s7_chunks_that_are_legal_arrive_as_the_same_body() {
    let mut lab = Lab::start().await;
    for body in [
        &b"3\r\nabc\r\n0\r\n\r\n"[..],
        b"3;x=y\r\nabc\r\n0;z\r\n\r\n",
        b"3;\r\nabc\r\n0\r\n\r\n",
        b"3;x=\"y;z\"\r\nabc\r\n0\r\n\r\n",
        b"3; x = y\r\nabc\r\n0\r\n\r\n",
        b"0003\r\nabc\r\n0000\r\n\r\n",
        b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
    ] {
        lab.takes(chunked(body), &[200, 200], &["/api/v1/x", "/api/v1/smuggled"]).await;
    }
    let hexadecimal = "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n";
    lab.takes(chunked(hexadecimal.as_bytes()), &[200, 200], &["/api/v1/x", "/api/v1/smuggled"]).await;
    for backend in lab.backends() {
        for request in backend.requests().iter().filter(|request| request.method == "POST") {
            assert!(["abc", "01234567890123456789"].contains(&&*String::from_utf8_lossy(&request.body)));
        }
    }
}

#[tokio::test]
async fn s8_trailers_are_dropped() {
    let mut lab = Lab::start().await;
    for trailers in [
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: other\r\n",
        "X-Forwarded-For: 6.6.6.6\r\n",
        "Authorization: Bearer x\r\n",
        "Cookie: a=b\r\n",
        "X: y\r\nZ: w\r\n",
        "Connection: close\r\n",
    ] {
        for announced in ["", "TE: trailers\r\nTrailer: X, Content-Length\r\n"] {
            let bytes = format!(
                "POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{announced}\r\n\
                 3\r\nabc\r\n0\r\n{trailers}\r\n{SMUGGLED}"
            );
            lab.takes(bytes, &[200, 200], &["/api/v1/x", "/api/v1/smuggled"]).await;
        }
    }
}

#[tokio::test]
async fn s12_a_body_that_nobody_reads_is_never_the_next_request() {
    let mut lab = Lab::with("[server]\nmax_content_length = 100").await;
    for (path, status) in [
        ("/api/v1/blocked", 403),
        ("/api/v1/moved", 301),
        ("/elsewhere", 404),
        ("/api/v1/%zz", 400),
        ("/api/v1/x", 413),
    ] {
        for length in [SMUGGLED.len() * 20, 100 << 10, 2 << 20] {
            let body = SMUGGLED.repeat(length / SMUGGLED.len() + 1);
            let body = &body[..length];
            let plain =
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
            lab.answers_or_closes(plain, status).await;
            let chunks = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {length:x}\r\n{body}\r\n0\r\n\r\n"
            );
            lab.answers_or_closes(chunks, status).await;
        }
    }
    let short = format!(
        "POST /api/v1/blocked HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    lab.answers_or_closes(short, 403).await;
}
