//! S1, S2, S3, S6: where a body ends.

use super::lab::{Lab, SMUGGLED, post};

#[tokio::test]
async fn s1_a_length_beside_a_coding_is_400_in_either_order() {
    let mut lab = Lab::start().await;
    // CL.TE and TE.CL: for one of two readers the second request is within the body of the first.
    let bodies = ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", ""];
    for length in ["Content-Length: 0", "content-length: 6", "CONTENT-LENGTH:4", "Content-Length: 4\r\nX: y"]
    {
        for coding in
            ["Transfer-Encoding: chunked", "transfer-encoding:Chunked", "Transfer-Encoding:\tchunked"]
        {
            for lines in [format!("{length}\r\n{coding}\r\n"), format!("{coding}\r\n{length}\r\n")] {
                let body = bodies[lines.len() % bodies.len()];
                lab.refuses(post(lines, body), 400).await;
            }
        }
    }
    // Named away, so that the next hop would see the other alone.
    for named in ["Content-Length", "Transfer-Encoding", "close, Transfer-Encoding"] {
        let lines = format!("Connection: {named}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n");
        lab.refuses(post(lines, "0\r\n\r\n"), 400).await;
    }
}

#[tokio::test]
async fn s2_a_length_that_is_not_one_number_is_400() {
    let mut lab = Lab::start().await;
    for value in [
        "",
        " ",
        "+3",
        "-1",
        "-0",
        "0x3",
        "0X3",
        "3_0",
        "3 3",
        "3,3",
        "3, 3",
        "3,4",
        "3,",
        ",3",
        "3;",
        "3.0",
        "3e0",
        "03",
        "00",
        "0000000000000000000003",
        "18446744073709551616",
        "18446744073709551619",
        "99999999999999999999999",
        "three",
        "'3'",
        "\"3\"",
        "3\"",
        "3\u{a0}",
        "\u{a0}3",
        "\u{2003}3",
        "\u{663}",
        "３",
        "3 a",
        "3\ta",
        "1 0",
        "3\u{ff}",
        "NaN",
        "Infinity",
        "3L",
        "3#",
        "%33",
        "\\3",
        "{3}",
    ] {
        lab.refuses(post(format!("Content-Length: {value}\r\n"), ""), 400).await;
    }
    for lines in [
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nContent-Length: 52\r\n",
        "Content-Length: 52\r\nX: y\r\ncontent-length: 0\r\n",
        "CONTENT-LENGTH: 0\r\nContent-Length: 0\r\n",
        "Content-Length: 3\r\nContent-Length:\r\n",
        "Content-Length:\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: x\r\n",
        "Content-Length: 3\r\n Content-Length: 4\r\n",
        "Content-Length: 3\r\n\t4\r\n",
        "Content-Length: \r\n 3\r\n",
    ] {
        lab.refuses(post(lines, "abc"), 400).await;
    }
    for bytes in [
        &b"Content-Length: 3\x0b\r\n"[..],
        b"Content-Length: \x0c3\r\n",
        b"Content-Length: 3\0\r\n",
        b"Content-Length: \x7f3\r\n",
        b"Content-Length: 3\r\r\n",
    ] {
        lab.refuses(post(bytes, "abc"), 400).await;
    }
}

#[tokio::test]
async fn s2_a_body_that_nobody_announced_is_the_next_request() {
    let mut lab = Lab::start().await;
    // CL.0 and 0.CL: whoever thinks that a GET or HEAD has no body, or that this one has.
    let get = |lines: &str, body: &str| {
        format!("GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{body}{SMUGGLED}")
    };
    let both = ["/api/v1/x", "/api/v1/smuggled"];
    lab.takes(get("", ""), &[200, 200], &both).await;
    lab.takes(get("Content-Length: 0\r\n", ""), &[200, 200], &both).await;
    lab.takes(get("Content-Length: 3\r\n", "abc"), &[200, 200], &both).await;
    lab.takes(get("Content-Length:\t 3 \t\r\n", "abc"), &[200, 200], &both).await;
    lab.takes(get("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), &[200, 200], &both).await;
    let swallowed = format!("Content-Length: {}\r\n", SMUGGLED.len());
    lab.takes(get(&swallowed, ""), &[200], &["/api/v1/x"]).await;
    lab.takes(post(&swallowed, ""), &[200], &["/api/v1/x"]).await;
    for lines in [
        "Content_Length: 3\r\n",
        "X-Content-Length: 3\r\n",
        "Content-Lengthy: 3\r\n",
        "Content_Length: x\r\n",
    ] {
        lab.takes(get(lines, ""), &[200, 200], &both).await;
    }
    for request in lab.backends().flat_map(|backend| backend.requests()) {
        assert!(!request.head.contains("Content_Length"), "{}", request.head);
    }
}

#[tokio::test]
async fn s3_a_coding_that_is_not_chunked_once_is_400_or_501() {
    let mut lab = Lab::start().await;
    for value in [
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "chunked, chunked",
        "chunked,chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;a=b",
        "chunked; q=0.5",
        "chunked ,",
        "chunked,",
        ",chunked",
        ", ,chunked",
        "",
        " ",
        "identity",
        "gzip",
        "x",
        "cow",
        "chunk",
        "hunked",
        "chunked gzip",
        "chunked\u{a0}",
        "\u{a0}chunked",
        "ch\u{131}nked",
        "ｃhunked",
        "{chunked}",
        "chunked\\",
        "chunked%00",
        "chunked#",
        "(chunked)",
        "chunked:chunked",
        "Transfer-Encoding: chunked",
        "chu nked",
        "chunked/1",
        "gzip, chunked, gzip",
        "gzip;q=1, chunked",
        "gzip chunked, chunked",
    ] {
        lab.refuses(post(format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"), 400).await;
    }
    // The Kelvin sign, whose small letter is a k.
    lab.refuses(post("Transfer-Encoding: chun\u{212a}ed\r\n", "0\r\n\r\n"), 400).await;
    for value in
        ["gzip, chunked", "deflate,chunked", "identity, chunked", "gzip, br, Chunked", "x-y ,\tchunked"]
    {
        lab.refuses(post(format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"), 501).await;
    }
    for lines in [
        &b"Transfer-Encoding: \x0bchunked\r\n"[..],
        b"Transfer-Encoding: chunked\x0b\r\n",
        b"Transfer-Encoding: \x0cchunked\r\n",
        b"Transfer-Encoding: \0chunked\r\n",
        b"Transfer-Encoding: chunked\0\r\n",
        b"Transfer-Encoding: chunked\x7f\r\n",
        b"Transfer-Encoding: \x08chunked\r\n",
        b"Transfer-Encoding: chunked\x85\r\n",
        b"Transfer-Encoding: \xffchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding: chunked\r\n\tidentity\r\n",
        b"Transfer-Encoding: x\r\n chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding\t: chunked\r\n",
        b" Transfer-Encoding: chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n",
        b"X: y\r\rTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-encoding: x\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
        b"Transfer\xadEncoding: chunked\r\n",
        b"Transfer Encoding: chunked\r\n",
        b"Transfer-Encoding\0: chunked\r\n",
        b"Transfer-Encoding\xa0: chunked\r\n",
        b"\x0bTransfer-Encoding: chunked\r\n",
    ] {
        lab.refuses_any(post(lines, "0\r\n\r\n"), &[400, 501]).await;
    }
}

#[tokio::test]
async fn s3_a_coding_by_another_name_is_none() {
    let mut lab = Lab::start().await;
    // With them the body would be chunks; without, what follows is the next request.
    for lines in [
        "Transfer_Encoding: chunked\r\n",
        "X-Transfer-Encoding: chunked\r\n",
        "Content-Encoding: chunked\r\n",
        "TE: chunked\r\n",
    ] {
        let bytes = format!("GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{SMUGGLED}");
        lab.takes(bytes, &[200, 200], &["/api/v1/x", "/api/v1/smuggled"]).await;
    }
    for request in lab.backends().flat_map(|backend| backend.requests()) {
        assert!(!request.head.to_ascii_lowercase().contains("transfer_encoding"), "{}", request.head);
    }
}

#[tokio::test]
async fn s6_a_coding_on_http_1_0_is_400() {
    let mut lab = Lab::start().await;
    for lines in [
        "Transfer-Encoding: chunked\r\n",
        "Host: localhost\r\nTransfer-Encoding: chunked\r\n",
        "Host: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
        "Host: localhost\r\nTransfer-Encoding: Chunked\r\nConnection: keep-alive, Transfer-Encoding\r\n",
        "Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        for method in ["POST", "GET"] {
            let bytes = format!("{method} /api/v1/x HTTP/1.0\r\n{lines}\r\n0\r\n\r\n{SMUGGLED}");
            lab.refuses(bytes, 400).await;
        }
    }
}
