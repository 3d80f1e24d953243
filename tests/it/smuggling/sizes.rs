//! S13: how large a head may be.

use super::lab::{Lab, SMUGGLED};
use crate::{
    h2_cases::{self, headers},
    harness::{
        Backend, Frames, Relay,
        frames::{END_STREAM, HEADERS},
        within,
    },
};

fn request(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

#[tokio::test]
async fn s13_heads_headers_and_targets_have_a_largest_size() {
    let mut lab = Lab::start().await;
    let path = |length: usize| format!("/api/v1/{}", "x".repeat(length - "/api/v1/".len()));
    let headers = |count: usize| (1..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    for (bytes, status) in [
        (request("/api/v1/x", &headers(101)), 431),
        (request("/api/v1/x", &headers(1000)), 431),
        (request("/api/v1/x", &"X: y\r\n".repeat(100)), 431),
        (request("/api/v1/x", &format!("X: {}\r\n", "y".repeat(70 << 10))), 431),
        (request("/api/v1/x", &format!("{}: y\r\n", "x".repeat(70 << 10))), 431),
        (request("/api/v1/x", &format!("X: {}\r\n", " ".repeat(17 << 10))), 431),
        (request("/api/v1/x", &format!("X: {}\r\n", "y".repeat(16 << 10))), 431),
        (request("/api/v1/x", &format!("Cookie: {}\r\n", "y=z; ".repeat(4 << 10))), 431),
        (request("/api/v1/x", &format!("X: {}", "y".repeat(70 << 10))), 431),
        (request(&path((8 << 10) + 1), ""), 414),
        (request(&path(70 << 10), ""), 414),
        (request(&format!("/api/v1/x?{}", "y".repeat(8 << 10)), ""), 414),
        (request(&format!("http://localhost{}", path(8 << 10)), ""), 414),
        (request(&"x".repeat(70 << 10), ""), 414),
    ] {
        lab.refuses(bytes + SMUGGLED, status).await;
    }
    let longest = path(8 << 10);
    lab.takes(request(&longest, ""), &[200], &[&longest]).await;
    lab.takes(request("/api/v1/x", &headers(100)), &[200], &["/api/v1/x"]).await;
    let rest = request("/api/v1/x", "X: \r\n").len();
    let largest = request("/api/v1/x", &format!("X: {}\r\n", "y".repeat((16 << 10) - rest)));
    assert_eq!(largest.len(), 16 << 10);
    lab.takes(largest, &[200], &["/api/v1/x"]).await;
}

#[tokio::test]
async fn s13_the_sizes_are_those_of_the_config() {
    let limits = "[limits]\nhead_size = \"64KiB\"\ntarget_size = \"1KiB\"\nheaders = 200";
    let mut lab = Lab::with(limits).await;
    let headers = |count: usize| "X: y\r\n".repeat(count - 1);
    let path = |length: usize| format!("/api/v1/{}", "x".repeat(length - "/api/v1/".len()));
    for (bytes, status) in [
        (request("/api/v1/x", &headers(201)), 431),
        (request(&path(1025), ""), 414),
        (request("/api/v1/x", &format!("X: {}\r\n", "y".repeat(64 << 10))), 431),
    ] {
        lab.refuses(bytes, status).await;
    }
    lab.takes(request("/api/v1/x", &headers(200)), &[200], &["/api/v1/x"]).await;
    lab.takes(request(&path(1024), ""), &[200], &[&path(1024)]).await;
    let large = request("/api/v1/x", &format!("X: {}\r\n", "y".repeat(60 << 10)));
    lab.takes(large, &[200], &["/api/v1/x"]).await;
}

/// HTTP/2 has no lines to be read within these bounds; what does not fit them goes no further.
#[tokio::test]
async fn s13_headers_and_targets_have_the_same_largest_size_over_h2() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let many = |count: usize, name: &str| -> Vec<(String, String)> {
        (0..count).map(|at| (name.replace('#', &at.to_string()), "v".to_owned())).collect()
    };
    let long = |length: usize| format!("/{}", "p".repeat(length - 1));
    let cases = [
        (many(99, "x-#"), long(2), 200),
        (many(101, "x-#"), long(2), 431),
        (many(200, "x"), long(2), 431),
        // A browser splits its cookies, which are one header.
        (many(150, "cookie"), long(2), 200),
        (many(0, ""), long(8 << 10), 200),
        (many(0, ""), long((8 << 10) + 1), 414),
    ];
    for (at, (fields, path, expected)) in cases.into_iter().enumerate() {
        let before = backend.requests().len();
        let mut frames = Frames::open(&relay, &[]).await;
        let mut all: Vec<_> =
            h2_cases::request("GET", &path).map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        all.extend(fields);
        assert!(frames.write(&headers(END_STREAM, 1, &all)).await);
        let status = within("an answer", async {
            loop {
                let frame = frames.next().await.expect("an answer");
                if frame.kind == HEADERS {
                    return frame.status();
                }
            }
        });
        assert_eq!(status.await, expected, "case {at}");
        assert_eq!(backend.requests().len() - before, usize::from(expected == 200), "case {at}");
    }
}
