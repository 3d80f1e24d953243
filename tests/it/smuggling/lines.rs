//! S4, S5: what is a line, and what is in it.

use super::lab::{Lab, SMUGGLED, post};

#[tokio::test]
async fn s4_a_header_line_that_is_none_is_400() {
    let mut lab = Lab::start().await;
    for lines in [
        // Blanks where none may be.
        &b"X : y\r\n"[..],
        b"X\t: y\r\n",
        b"Host : localhost\r\n",
        b"Content-Length : 3\r\n",
        b"X Y: z\r\n",
        b" X: y\r\n",
        b"\tX: y\r\n",
        b"  \r\n",
        b"\t\r\n",
        // Folded lines.
        b"X: y\r\n z\r\n",
        b"X: y\r\n\tz\r\n",
        b"X: y\r\n \r\n",
        b"X:\r\n y\r\n",
        b"X: y\r\n z: w\r\n",
        // Lines that say nothing.
        b"X\r\n",
        b"GET /api/v1/smuggled HTTP/1.1\r\n",
        b": y\r\n",
        b":\r\n",
        b" : y\r\n",
        b"=\r\n",
        // Names that are no tokens.
        b"X(: y\r\n",
        b"X@y: z\r\n",
        b"\"X\": y\r\n",
        b"X,Y: z\r\n",
        b"X;: y\r\n",
        b"X[]: y\r\n",
        b"X{}: y\r\n",
        b"X\\: y\r\n",
        b"X/Y: z\r\n",
        b"X?: y\r\n",
        b"X=: y\r\n",
        b"<X>: y\r\n",
        b"\xc3\xa9: y\r\n",
        b"X\xff: y\r\n",
        b"\xef\xbb\xbfX: y\r\n",
        b"X\0: y\r\n",
        b"\0X: y\r\n",
        b"X\x7f: y\r\n",
        b"X\x0b: y\r\n",
        b"X\x1b: y\r\n",
        // Control characters in values.
        b"X: a\0b\r\n",
        b"X: \0\r\n",
        b"X: a\x01b\r\n",
        b"X: a\x08b\r\n",
        b"X: a\x0bb\r\n",
        b"X: a\x0cb\r\n",
        b"X: a\x1bb\r\n",
        b"X: a\x1fb\r\n",
        b"X: a\x7fb\r\n",
        // A CR that ends no line.
        b"X: a\rb\r\n",
        b"X: a\r\r\n",
        b"X: \ra\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X: a\r\rGET /api/v1/smuggled HTTP/1.1\r\n",
        b"\rX: a\r\n",
        b"X\r: a\r\n",
    ] {
        lab.refuses(post(lines, ""), 400).await;
    }
}

#[tokio::test]
async fn s4_a_request_line_that_is_none_is_400() {
    let mut lab = Lab::start().await;
    for line in [
        &b"GET"[..],
        b"GET /",
        b"GET /api/v1/x",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET  /api/v1/x HTTP/1.1",
        b"GET /api/v1/x  HTTP/1.1",
        b"GET /api/v1/x HTTP/1.1 ",
        b" GET /api/v1/x HTTP/1.1",
        b"\tGET /api/v1/x HTTP/1.1",
        b"GET\t/api/v1/x HTTP/1.1",
        b"GET /api/v1/x\tHTTP/1.1",
        b"GET /api/v1/x HTTP/1.1\t",
        b"GET /api/v1/x HTTP/1.1\x0b",
        b"GET\x0b/api/v1/x HTTP/1.1",
        b"GET\x0c/api/v1/x\x0cHTTP/1.1",
        b"GET\xa0/api/v1/x HTTP/1.1",
        b"GET /api/v1/x HTTP/1.1 HTTP/1.1",
        b"GET /api/v1/x y HTTP/1.1",
        b"GET /api/v1/smuggled HTTP/1.1 /api/v1/x HTTP/1.1",
        b"GET /api/v1/x http/1.1",
        b"GET /api/v1/x Http/1.1",
        b"GET /api/v1/x HTTP/1.10",
        b"GET /api/v1/x HTTP/01.1",
        b"GET /api/v1/x HTTP/1.01",
        b"GET /api/v1/x HTTP/1",
        b"GET /api/v1/x HTTP/1.",
        b"GET /api/v1/x HTTP/.1",
        b"GET /api/v1/x HTTP/1,1",
        b"GET /api/v1/x HTTP/1.x",
        b"GET /api/v1/x HTTP/-1.1",
        b"GET /api/v1/x HTTP/1.1.1",
        b"GET /api/v1/x HTTP1.1",
        b"GET /api/v1/x HTTP /1.1",
        b"GET /api/v1/x HTTPS/1.1",
        b"GET /api/v1/x ICY/1.1",
        b"GET /api/v1/x RTSP/1.0",
        b"GET /api/v1/x HTTP/1.1\0",
        b"GET /api/v1/x HTTP/1\xc2\xb71",
        b"G ET /api/v1/x HTTP/1.1",
        b"G@T /api/v1/x HTTP/1.1",
        b"GE\0T /api/v1/x HTTP/1.1",
        b"GET\0 /api/v1/x HTTP/1.1",
        b"\0GET /api/v1/x HTTP/1.1",
        b"\"GET\" /api/v1/x HTTP/1.1",
        b"GET: /api/v1/x HTTP/1.1",
        b"{GET} /api/v1/x HTTP/1.1",
        b"\xef\xbb\xbfGET /api/v1/x HTTP/1.1",
        b"\xc7\xb4ET /api/v1/x HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"Host: localhost",
        b"\x16\x03\x01",
        b"SSH-2.0-OpenSSH_9.2",
    ] {
        let bytes = [line, b"\r\nHost: localhost\r\n\r\n", SMUGGLED.as_bytes()].concat();
        lab.refuses(bytes, 400).await;
    }
}

#[tokio::test]
async fn other_versions_are_505() {
    let mut lab = Lab::start().await;
    for version in
        ["HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/2.1", "HTTP/3.0", "HTTP/9.9", "HTTP/0.0"]
    {
        let bytes = format!("GET /api/v1/x {version}\r\nHost: localhost\r\n\r\n{SMUGGLED}");
        lab.refuses(bytes, 505).await;
    }
    lab.refuses("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505).await;
}

#[tokio::test]
async fn s5_a_line_end_that_is_not_crlf_is_400_wherever_it_is() {
    let mut lab = Lab::start().await;
    let request = "POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nX: y\r\n\r\n";
    let ends: Vec<usize> = request.match_indices("\r\n").map(|(at, _)| at).collect();
    for end in ["\n", "\r", "\r\r\n", "\n\r", "\n\n", "\r\r", "\u{b}", "\u{2028}"] {
        for at in &ends {
            let bytes = format!("{}{end}{}{SMUGGLED}", &request[..*at], &request[at + 2..]);
            lab.refuses(bytes, 400).await;
        }
        lab.refuses(request.replace("\r\n", end) + SMUGGLED, 400).await;
    }
    // Before a request empty lines are ignored, if they are that.
    for before in ["\n", "\r", "\r\r\n", "\r\n\n", "\n\r\n", " \r\n", "\r\n \r\n", "\t\r\n"] {
        lab.refuses(format!("{before}{SMUGGLED}"), 400).await;
    }
    for before in ["\r\n", "\r\n\r\n", "\r\n\r\n\r\n\r\n"] {
        lab.takes(format!("{before}{SMUGGLED}{before}{SMUGGLED}"), &[200, 200], &["/api/v1/smuggled"; 2])
            .await;
    }
}

#[tokio::test]
async fn s4_what_is_legal_if_odd_arrives_in_canonical_form() {
    let mut lab = Lab::start().await;
    for lines in [
        &b"X:y\r\n"[..],
        b"X:\r\n",
        b"X: \r\n",
        b"X:\ty\t\r\n",
        b"X: a:b:c\r\n",
        b"X: \"a\\\"b\"\r\n",
        b"X: a\xe9b\r\n",
        b"X: \xf0\x9f\x98\x80\r\n",
        b"x!#$%&'*+-.^`|~: y\r\n",
        b"X: y\r\nX: y\r\n",
        b"X: a, b ,c\r\n",
    ] {
        let bytes = [b"GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\n", lines, b"\r\n"].concat();
        lab.takes(bytes, &[200], &["/api/v1/x"]).await;
    }
    lab.takes("GET /api/v1/x HTTP/1.0\r\n\r\n", &[200], &["/api/v1/x"]).await;
    lab.takes("GET /api/v1/x HTTP/1.0\r\nHost: localhost\r\n\r\n", &[200], &["/api/v1/x"]).await;
}
