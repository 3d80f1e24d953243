//! Every example of the original's manual does here what it does there.

use crate::harness::{Answer, Backend, Client, Relay, Reply};

/// What an example of the manual does with a request.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Proxied,
    Blocked,
    Redirected(u16, &'static str),
    /// To the front end, which is off.
    Frontend,
}

use Outcome::{Blocked, Frontend, Proxied, Redirected};

/// Starts a relay with the fixture and tries the requests, each written as `METHOD /path`.
async fn example(fixture: &str, expected: &[(&str, Outcome)]) {
    let fixture = format!("{}/tests/fixtures/original/{fixture}.toml", env!("CARGO_MANIFEST_DIR"));
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .toml(&std::fs::read_to_string(&fixture).unwrap())
        .backend(backend.address())
        .start()
        .await;
    let client = Client::http(relay.http());
    for (request, outcome) in expected {
        let (method, path) = request.split_once(' ').unwrap();
        let asked = backend.requests().len();
        let answer: Answer = client.call(method, path).send().await;
        let said = format!("{request} of {fixture}: {answer:?}");
        let proxied = match outcome {
            Proxied => {
                assert_eq!(answer.status, 200, "{said}");
                vec![path.to_owned()]
            }
            Blocked => {
                assert_eq!(answer.status, 403, "{said}");
                if method != "HEAD" {
                    answer.assert_error(403, "forbidden");
                }
                vec![]
            }
            Redirected(code, target) => {
                assert_eq!(answer.status, *code, "{said}");
                assert_eq!(answer.header("location"), Some(*target), "{said}");
                vec![]
            }
            Frontend => {
                assert_eq!(answer.status, 404, "{said}");
                vec![]
            }
        };
        let sent: Vec<String> = backend.requests()[asked..].iter().map(|sent| sent.target.clone()).collect();
        assert_eq!(sent, proxied, "{said}");
    }
}

#[tokio::test]
async fn the_manuals_reference_config_runs_as_it_is() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .toml(include_str!("../fixtures/original/reference.toml"))
        .toml("[server]\nport = 0\n[frontend]\ndirectory = \"{dir}/mura\"")
        .file("mura/index.html", "INDEX")
        .backend(backend.address())
        .start()
        .await;
    assert!(!relay.has_redirect(), "plain HTTP has no redirect listener");
    let client = Client::http(relay.http());
    for path in ["/api/v1/me", "/pfp/1", "/attachment/1", "/health"] {
        let path = format!("/your20charprefix{path}");
        assert_eq!(client.get(&path).await.text(), "ok");
        assert_eq!(backend.last().target, path);
    }
    assert_eq!(client.get("/your20charprefix/").await.text(), "INDEX");
    assert_eq!(backend.requests().len(), 4);
}

#[tokio::test]
async fn a_prefix_is_matched_after_the_secret_prefix() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .toml("uri_prefix = \"secret\"\n[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"")
        .backend(backend.address())
        .start()
        .await;
    let client = Client::http(relay.http());
    assert_eq!(client.get("/secret/api/v1/me").await.status, 200);
    client.get("/api/v1/me").await.assert_error(404, "not found");
    assert_eq!(client.get("/secrets/api/v1/me").await.status, 404);
    assert_eq!(backend.only().target, "/secret/api/v1/me");
}

#[tokio::test]
async fn a_wildcard_stands_for_one_segment_and_works_as_a_prefix() {
    example(
        "wildcard-messages",
        &[
            ("GET /api/v1/channel/abc123/messages", Blocked),
            ("GET /api/v1/channel/messages", Frontend),
            ("GET /api/v1/channel/abc/messages/ack", Blocked),
            ("GET /api/v1/channel/abc/other", Frontend),
            ("GET /api/v1/channel/a/b/messages", Frontend),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_wildcard_stands_for_a_part_of_a_segment() {
    example(
        "wildcard-within-segment",
        &[
            ("GET /api/v1/channel/abca/messages", Blocked),
            ("GET /api/v1/channel/aa/messages", Blocked),
            ("GET /api/v1/channel/abc/messages", Frontend),
            ("GET /api/v1/channel/a/a/messages", Frontend),
        ],
    )
    .await;
}

#[tokio::test]
async fn sending_to_announcement_channels_is_blocked() {
    example(
        "announcements-read-only",
        &[
            ("POST /api/v1/channel/announcements-1/messages", Blocked),
            ("POST /api/v1/channel/announcements-/messages", Blocked),
            ("GET /api/v1/channel/announcements-1/messages", Proxied),
            ("POST /api/v1/channel/general/messages", Proxied),
            ("POST /pfp/1", Frontend),
        ],
    )
    .await;
}

#[tokio::test]
async fn profile_pictures_are_blocked() {
    example(
        "block-pfp",
        &[
            ("GET /pfp", Blocked),
            ("GET /pfp/1", Blocked),
            ("HEAD /pfp/1", Blocked),
            ("DELETE /pfp/1", Blocked),
            ("GET /pfpx", Frontend),
        ],
    )
    .await;
}

#[tokio::test]
async fn old_paths_are_redirected_with_each_code() {
    example(
        "redirects",
        &[
            ("GET /old-api", Redirected(301, "https://example.com/new-api")),
            ("GET /old-api/below?q=1", Redirected(301, "https://example.com/new-api")),
            ("GET /beta", Redirected(302, "https://example.com/beta-new")),
            ("POST /api/v1/upload", Redirected(307, "https://upload.example.com/api/v1/upload")),
            ("PUT /moved/x", Redirected(308, "https://example.com/moved")),
            ("GET /old-apix", Frontend),
        ],
    )
    .await;
}

#[tokio::test]
async fn reads_are_allowed_and_writes_blocked_on_a_route() {
    example(
        "channel-reads-only",
        &[
            ("GET /api/v1/channel/1/messages", Proxied),
            ("OPTIONS /api/v1/channel/1/messages", Proxied),
            ("PUT /api/v1/channel/1/messages", Proxied),
            ("POST /api/v1/channel/1/messages", Blocked),
            ("PATCH /api/v1/channel/1", Blocked),
            ("DELETE /api/v1/channel/1", Blocked),
            ("POST /api/v1/login", Proxied),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_read_only_instance_takes_no_writes() {
    example(
        "read-only-instance",
        &[
            ("GET /api/v1/me", Proxied),
            ("POST /api/v1/login", Blocked),
            ("PUT /api/v1/x", Blocked),
            ("PATCH /api/v1/me", Blocked),
            ("DELETE /api/v1/me", Blocked),
            ("GET /pfp/1", Proxied),
            ("POST /pfp/1", Proxied),
            ("GET /attachment/1", Proxied),
        ],
    )
    .await;
}

#[tokio::test]
async fn account_creation_and_login_are_blocked() {
    example(
        "no-accounts",
        &[
            ("POST /api/v1/signup", Blocked),
            ("POST /api/v1/login", Blocked),
            ("POST /api/v1/login/second", Blocked),
            ("POST /api/v1/logins", Proxied),
            ("GET /api/v1/me", Proxied),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_live_stream_is_blocked() {
    example(
        "no-stream",
        &[
            ("GET /api/v1/stream", Blocked),
            ("GET /api/v1/stream?authorization=Bearer%20x", Blocked),
            ("GET /api/v1/streams", Proxied),
        ],
    )
    .await;
}

#[tokio::test]
async fn calls_are_blocked_and_messages_are_not() {
    example(
        "no-calls",
        &[
            ("POST /api/v1/channel/1/call", Blocked),
            ("DELETE /api/v1/channel/1/call", Blocked),
            ("POST /api/v1/channel/1/call/signal", Blocked),
            ("POST /api/v1/channel/1/messages", Proxied),
            ("POST /api/v1/channel/call", Proxied),
            ("POST /api/v1/channel/1/calls", Proxied),
        ],
    )
    .await;
}

#[tokio::test]
async fn attachments_are_blocked() {
    example("block-attachment", &[("GET /attachment/1", Blocked), ("GET /attachments", Frontend)]).await;
}

#[tokio::test]
async fn all_downloads_are_blocked() {
    example(
        "no-downloads",
        &[("GET /attachment/1", Blocked), ("GET /pfp/1", Blocked), ("GET /api/v1/me", Proxied)],
    )
    .await;
}

#[tokio::test]
async fn attachments_over_ten_megabytes_are_refused() {
    let backend = Backend::builder()
        .on("/attachment/small", |_| Reply::zeros(10_485_760))
        .on("/attachment/big", |_| Reply::zeros(10_485_761))
        .start()
        .await;
    let relay = Relay::builder()
        .toml(include_str!("../fixtures/original/attachment-size.toml"))
        .backend(backend.address())
        .start()
        .await;
    let client = Client::http(relay.http());
    assert_eq!(client.get("/attachment/small").await.body.len(), 10_485_760);
    client.get("/attachment/big").await.assert_error(413, "content too big");
    let methods: Vec<String> = backend.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["HEAD", "GET", "HEAD"], "the body of the big one is never asked for");
}
