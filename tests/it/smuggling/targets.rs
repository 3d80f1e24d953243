//! S10, S11, S14: what a request asks for.

use super::lab::{Lab, SMUGGLED};

#[tokio::test]
async fn s10_one_host_that_is_one_or_400() {
    let mut lab = Lab::start().await;
    for host in [
        "",
        " ",
        "a b",
        "a/x?y@z",
        "a/",
        "/a",
        "a?b",
        "a#b",
        "a, b",
        "a,b",
        "u@a",
        "u:p@a",
        "@a",
        "a@",
        "a:",
        "a:x",
        "a:80:80",
        "a:-1",
        "a:65536",
        "a:99999",
        ":80",
        ":",
        "http://a",
        "a\\b",
        "[::1",
        "::1]",
        "[]",
        "[x]",
        "a:80 b",
        "a\tb",
        "<a>",
        "\"a\"",
        "a%00",
        "\u{e9}",
        "a\u{a0}",
        "a|b",
        "a^b",
        "{a}",
        "localhost\u{ff0e}example",
    ] {
        let bytes = format!("GET /api/v1/x HTTP/1.1\r\nHost: {host}\r\n\r\n{SMUGGLED}");
        lab.refuses(bytes, 400).await;
    }
    for lines in [
        "",
        "X: y\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nhost: other\r\n",
        "HOST: localhost\r\nX: y\r\nHost:\r\n",
        "Host:\r\nHost: localhost\r\n",
        "Host\u{a0}: localhost\r\n",
        "X-Host: localhost\r\n",
    ] {
        let bytes = format!("GET /api/v1/x HTTP/1.1\r\n{lines}\r\n{SMUGGLED}");
        lab.refuses(bytes, 400).await;
    }
}

#[tokio::test]
async fn s10_an_absolute_target_agrees_with_host_or_400() {
    let mut lab = Lab::start().await;
    for (target, host) in [
        ("http://other/api/v1/x", "localhost"),
        ("http://localhost:81/api/v1/x", "localhost"),
        ("http://localhost/api/v1/x", "localhost:80"),
        ("http://localhost.other/api/v1/x", "localhost"),
        ("http://u@localhost/api/v1/x", "localhost"),
        ("http://u:p@localhost/api/v1/x", "u:p@localhost"),
        ("http://localhost@other/api/v1/x", "localhost"),
        ("http:///api/v1/x", "localhost"),
        ("http:/api/v1/x", "localhost"),
        ("http:localhost/api/v1/x", "localhost"),
        ("http://:80/api/v1/x", "localhost"),
        ("http://[::1/api/v1/x", "localhost"),
        ("ftp://localhost/api/v1/x", "localhost"),
        ("ws://localhost/api/v1/x", "localhost"),
        ("file:///etc/passwd", "localhost"),
        ("javascript:alert(1)", "localhost"),
        ("gopher://localhost/", "localhost"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n{SMUGGLED}");
        lab.refuses(bytes, 400).await;
    }
    lab.refuses(format!("GET http://localhost/api/v1/x HTTP/1.1\r\n\r\n{SMUGGLED}"), 400).await;
    let taken = "GET http://LocalHost/api/v1/x?y HTTP/1.1\r\nHost: localhost\r\n\r\n";
    lab.takes(taken, &[200], &["/api/v1/x?y"]).await;
}

#[tokio::test]
async fn s11_a_target_that_is_no_path_is_400() {
    let mut lab = Lab::start().await;
    for target in [
        "a.b:80",
        "p",
        "localhost",
        "localhost/api/v1/x",
        "api/v1/x",
        "#f",
        "?x",
        "*",
        "**",
        "*/api",
        "/#f",
        "/api/v1/x#f",
        "/api/v1/x?y#z",
        "\\",
        "\\api\\v1",
        ".",
        "..",
        "../api",
        "~",
        "%2fapi/v1/x",
        "/api/v1/<x>",
        "/api/v1/\u{e9}",
        "/api/v1/\u{7f}",
        "/api/v1/x\u{a0}",
        "/api/v1/x\0",
        "/api/v1/x\u{2028}y",
        "/api/v1/x\u{1}",
        "mailto:a@b",
        "[::1]:80",
        ":80",
        "@",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n{SMUGGLED}");
        lab.refuses(bytes, 400).await;
    }
}

#[tokio::test]
async fn s11_a_method_that_is_none_here_is_405_with_those_that_are() {
    let mut lab = Lab::start().await;
    let allow = ("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    let request = |method: &str, target: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n{SMUGGLED}")
    };
    // After these nobody knows what follows.
    for (method, target) in [
        ("CONNECT", "localhost:80"),
        ("CONNECT", "/api/v1/x"),
        ("CONNECT", "http://localhost/api/v1/x"),
        ("CONNECT", "*"),
        (&*"M".repeat(33), "/api/v1/x"),
        (&*"M".repeat(3000), "/api/v1/x"),
    ] {
        lab.refuses_with(request(method, target), 405, allow).await;
    }
    for method in [
        "TRACE",
        "TRACK",
        "PROPFIND",
        "get",
        "Get",
        "POSTX",
        "XGET",
        "GET_",
        "-",
        "M",
        "PURGE",
        "SOURCE",
        "connect",
        "Connect",
        "HEADS",
        "!#$%&'*+-.^_`|~",
    ] {
        lab.takes(request(method, "/api/v1/x"), &[405, 200], &["/api/v1/smuggled"]).await;
    }
}

#[tokio::test]
async fn s11_options_of_the_server_is_answered_here() {
    let mut lab = Lab::start().await;
    let bytes = format!("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n{SMUGGLED}");
    lab.takes(bytes, &[204, 200], &["/api/v1/smuggled"]).await;
}

#[tokio::test]
async fn s14_an_expectation_that_is_not_100_continue_is_417() {
    let mut lab = Lab::start().await;
    for lines in [
        "Expect: 200-ok\r\n",
        "Expect:\r\n",
        "Expect: 100\r\n",
        "Expect: 100-continuex\r\n",
        "Expect: 100 continue\r\n",
        "Expect: \"100-continue\"\r\n",
        "Expect: 100-continue;q=1\r\n",
        "Expect: 100-continue, 100-continue\r\n",
        "Expect: 100-continue, x\r\n",
        "Expect: 100-continue\r\nExpect: x\r\n",
        "Expect: x\r\nExpect: 100-continue\r\n",
        "Expect: x\r\nContent-Length: 3\r\n",
        "Expect: x\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let bytes = format!("POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{SMUGGLED}");
        lab.refuses(bytes, 417).await;
    }
    let bytes =
        "POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 0\r\n\r\n";
    lab.takes(bytes, &[200], &["/api/v1/x"]).await;
}
