//! What no rule matches: files, another server, or nothing.

use std::io::Read;

use crate::harness::{Backend, Client, Raw, Relay, Reply, on_h1_and_h2, relay::RelayBuilder};

const SERVE: &str = "uri_prefix = \"abc\"\n[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/front\"\n\
                     [[paths]]\nprefix = \"/api/v1\"\naction = \"block\"";

fn serving() -> RelayBuilder {
    Relay::builder()
        .self_signed()
        .toml(SERVE)
        .file("front/index.html", "<!doctype html>INDEX")
        .file("front/404.html", "<!doctype html>NOTFOUND")
        .file("front/about.html", "<!doctype html>ABOUT")
        .file("front/media/main.js", "let a = 1;\n".repeat(2000))
        .file("front/media/font.woff2", [0; 3000])
        .file("front/README.md", "README")
        .file("front/.git/config", "GIT")
        .file("secret.txt", "SECRET")
}

on_h1_and_h2! {
    async fn files_are_found_by_their_path(version) {
        let relay = serving().start().await;
        let client = Client::https(&relay, version);
        for (path, status, content_type, body) in [
            ("/abc/", 200, "text/html", "<!doctype html>INDEX"),
            ("/abc", 200, "text/html", "<!doctype html>INDEX"),
            ("/abc/index.html", 200, "text/html", "<!doctype html>INDEX"),
            ("/abc/about", 200, "text/html", "<!doctype html>ABOUT"),
            ("/abc/ab%6fut.html?x", 200, "text/html", "<!doctype html>ABOUT"),
            ("/about", 200, "text/html", "<!doctype html>ABOUT"),
            ("/abc/nope", 404, "text/html", "<!doctype html>NOTFOUND"),
            ("/abc/media", 404, "text/html", "<!doctype html>NOTFOUND"),
            ("/abc/README.md", 404, "text/html", "<!doctype html>NOTFOUND"),
            ("/abc/.git/config", 404, "text/html", "<!doctype html>NOTFOUND"),
            ("/nope", 404, "application/json", "{\"error\":\"not found\"}"),
            ("/abc/api/v1x", 404, "text/html", "<!doctype html>NOTFOUND"),
        ] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, status, "{path}");
            assert!(answer.header("content-type").unwrap().starts_with(content_type), "{path}: {answer:?}");
            assert_eq!(answer.text(), body, "{path}");
        }
        let script = client.get("/abc/media/main.js").await;
        assert!(script.header("content-type").unwrap().starts_with("text/javascript"), "{script:?}");
        assert_eq!(client.get("/abc/media/font.woff2").await.header("content-type"), Some("font/woff2"));
        client.get("/abc/api/v1/x").await.assert_error(403, "forbidden");
    }

    async fn head_is_get_without_the_body(version) {
        let relay = serving().start().await;
        let client = Client::https(&relay, version);
        for path in ["/abc/", "/abc/media/main.js", "/abc/nope"] {
            let get = client.get(path).await;
            let head = client.call("HEAD", path).send().await;
            assert_eq!(head.status, get.status, "{path}");
            assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
            assert_eq!(head.header("etag"), get.header("etag"), "{path}");
            assert!(head.body.is_empty());
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = client.call(method, "/abc/about").send().await;
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
    }

    async fn what_did_not_change_is_304(version) {
        let relay = serving().start().await;
        let client = Client::https(&relay, version);
        let first = client.get("/abc/media/main.js").await;
        let (etag, modified) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
        for (name, value, status) in [
            ("if-none-match", etag, 304),
            ("if-none-match", &*format!("\"x\", {etag}"), 304),
            ("if-none-match", "*", 304),
            ("if-none-match", "\"x\"", 200),
            ("if-modified-since", modified, 304),
            ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ] {
            let answer = client.call("GET", "/abc/media/main.js").header(name, value).send().await;
            assert_eq!(answer.status, status, "{name}: {value}");
            assert_eq!(answer.body.is_empty(), status == 304);
            assert_eq!(answer.header("etag"), Some(etag));
        }
    }

    async fn ranges_of_a_file(version) {
        let relay = serving().file("front/data.bin", (0..=255).collect::<Vec<u8>>()).start().await;
        let client = Client::https(&relay, version);
        for (range, status, content_range, body) in [
            ("bytes=0-3", 206, Some("bytes 0-3/256"), &[0, 1, 2, 3][..]),
            ("bytes=254-", 206, Some("bytes 254-255/256"), &[254, 255]),
            ("bytes=-1", 206, Some("bytes 255-255/256"), &[255]),
            ("bytes=250-999", 206, Some("bytes 250-255/256"), &[250, 251, 252, 253, 254, 255]),
            ("bytes=256-", 416, Some("bytes */256"), &[]),
        ] {
            let answer = client.call("GET", "/abc/data.bin").header("range", range).send().await;
            assert_eq!(answer.status, status, "{range}");
            assert_eq!(answer.header("content-range"), content_range, "{range}");
            if status == 206 {
                assert_eq!(answer.body, body, "{range}");
            }
        }
        let stale = client
            .call("GET", "/abc/data.bin")
            .header("range", "bytes=0-3")
            .header("if-range", "\"stale\"")
            .send()
            .await;
        assert_eq!((stale.status.as_u16(), stale.body.len()), (200, 256));
    }

    async fn texts_are_compressed_for_who_understands_it(version) {
        let relay = serving().start().await;
        let client = Client::https(&relay, version);
        let plain = client.get("/abc/media/main.js").await;
        assert_eq!(plain.header("content-encoding"), None);
        assert!(plain.header("vary").unwrap().to_ascii_lowercase().contains("accept-encoding"));
        for (accepted, encoding) in
            [("gzip, deflate, br", "br"), ("gzip", "gzip"), ("br;q=0, gzip", "gzip"), ("identity", "")]
        {
            let answer = client.call("GET", "/abc/media/main.js").header("accept-encoding", accepted).send().await;
            assert_eq!(answer.header("content-encoding").unwrap_or_default(), encoding, "{accepted}");
            let mut decoded = Vec::new();
            let mut body = &answer.body[..];
            match encoding {
                "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut decoded).unwrap(),
                "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut decoded).unwrap(),
                _ => body.read_to_end(&mut decoded).unwrap(),
            };
            assert_eq!(decoded, plain.body, "{accepted}");
            if !encoding.is_empty() {
                assert!(answer.body.len() < plain.body.len() / 5);
                assert_ne!(answer.header("etag"), plain.header("etag"), "another encoding is another entity");
            }
        }
        let font = client.call("GET", "/abc/media/font.woff2").header("accept-encoding", "br").send().await;
        assert_eq!(font.header("content-encoding"), None, "fonts are compressed already");
    }

    async fn forwarding_passes_on_what_no_rule_matches(version) {
        let pages = Backend::builder()
            .on("/abc/page", |_| Reply::ok("page").header("Content-Type", "text/html"))
            .start()
            .await;
        let relay = Relay::builder()
            .self_signed()
            .toml(&format!("uri_prefix = \"abc\"\n[frontend]\nmode = \"forward\"\nurl = \"http://{}\"", pages.address()))
            .toml("[[paths]]\nprefix = \"/api/v1\"\naction = \"block\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        assert_eq!(client.get("/abc/page?q=1").await.text(), "page");
        let request = pages.only();
        assert_eq!(request.target, "/abc/page?q=1");
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
        assert_eq!(client.get("/abc/api/v1").await.status, 403);
        assert_eq!(pages.requests().len(), 1);
    }

    async fn a_path_in_its_url_goes_before_requests_and_comes_off_locations(version) {
        let pages = Backend::builder()
            .on("/site/x", |request| Reply::status("302 FOUND").header("Location", request.headers("x-location")[0]))
            .start()
            .await;
        let own = pages.address();
        let relay = Relay::builder()
            .self_signed()
            .toml(&format!("[frontend]\nmode = \"forward\"\nurl = \"http://{own}/site/\""))
            .start()
            .await;
        let client = Client::https(&relay, version);
        assert_eq!(client.get("/y?q=1").await.status, 200);
        assert_eq!(pages.only().target, "/site/y?q=1");
        let public = relay.authority();
        for (location, rewritten) in [
            (format!("http://{own}/site/next?q#z"), format!("https://{public}/next?q#z")),
            (format!("http://{own}/site"), format!("https://{public}")),
            ("/site/next?q#z".to_owned(), "/next?q#z".to_owned()),
            ("/site/".to_owned(), "/".to_owned()),
            ("/site".to_owned(), "/".to_owned()),
            ("/site?q".to_owned(), "/?q".to_owned()),
            // A path alone must not turn into a name.
            ("/site//evil.example/".to_owned(), "/evil.example/".to_owned()),
            ("/sites".to_owned(), "/sites".to_owned()),
            ("next".to_owned(), "next".to_owned()),
            ("https://elsewhere.example/site/".to_owned(), "https://elsewhere.example/site/".to_owned()),
        ] {
            let answer = client.call("GET", "/x").header("x-location", &location).send().await;
            assert_eq!(answer.header("location"), Some(&*rewritten), "{location}");
        }
    }

    async fn a_disabled_front_end_is_404(version) {
        let relay = Relay::builder().self_signed().toml("uri_prefix = \"abc\"").start().await;
        let client = Client::https(&relay, version);
        let inside = client.get("/abc/x").await;
        assert_eq!((inside.status.as_u16(), inside.text()), (404, "not found"));
        assert!(inside.header("content-type").unwrap().starts_with("text/plain"));
        client.get("/abc/api/v1/x").await.assert_error(404, "not found");
        client.get("/x").await.assert_error(404, "not found");
    }

    async fn only_below_prefix_hides_the_rest(version) {
        let relay = serving().toml("[frontend]\nonly_below_prefix = true").start().await;
        let client = Client::https(&relay, version);
        assert_eq!(client.get("/abc/about").await.status, 200);
        client.get("/about").await.assert_error(404, "not found");
        client.get("/").await.assert_error(404, "not found");
    }
}

#[tokio::test]
async fn f1_nothing_outside_the_directory_is_served() {
    let relay = serving().start().await;
    let front = relay.path("front");
    std::os::unix::fs::symlink(relay.path("secret.txt"), front.join("link.txt")).unwrap();
    std::os::unix::fs::symlink("..", front.join("up")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", front.join("zero.bin")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, front.join("pipe.txt"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    for path in [
        "/abc/link.txt",
        "/abc/up/secret.txt",
        "/abc/zero.bin",
        "/abc/pipe.txt",
        "/abc/../secret.txt",
        "/abc/..%2fsecret.txt",
        "/abc/%2e%2e/secret.txt",
        "/abc/media/../../secret.txt",
        "/abc/x%00.html",
        "/abc/..\\secret.txt",
        "/abc//etc/passwd",
        "//etc/passwd",
        "/abc/media/%2e%2e%5c..%5csecret.txt",
    ] {
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        let answer = String::from_utf8_lossy(&raw.read_to_end().await).into_owned();
        let status = crate::harness::raw::status(&answer);
        assert!([400, 404].contains(&status), "{path}: {answer}");
        assert!(!answer.contains("SECRET") && !answer.contains("root:"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_directory_that_is_missing_is_a_warning_and_404s() {
    let relay = Relay::builder()
        .self_signed()
        .toml("[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/nowhere\"")
        .start()
        .await;
    relay.log_with(&["WARN", "nowhere"]).await;
    let client = Client::https(&relay, crate::harness::Version::Http1);
    assert_eq!(client.get("/").await.status, 404);
    assert_eq!(client.get("/index.html").await.status, 404);
}

#[tokio::test]
async fn precompressed_siblings_are_taken() {
    let relay = serving().file("front/app.js", "plain").file("front/app.js.br", "BROTLI").start().await;
    let client = Client::https(&relay, crate::harness::Version::Http2);
    let answer = client.call("GET", "/abc/app.js").header("accept-encoding", "br").send().await;
    assert_eq!((answer.text(), answer.header("content-encoding")), ("BROTLI", Some("br")));
    assert!(answer.header("content-type").unwrap().starts_with("text/javascript"));
    assert_eq!(client.get("/abc/app.js").await.text(), "plain");
}
