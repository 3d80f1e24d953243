//! Stream continuity: whatever the backend does, an EventSource is told only what it can live with.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hyper::body::Incoming;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::harness::{
    Backend, Client, EventSource, Flask, Relay, Reply, Version,
    backend::BackendBuilder,
    client::next_chunk,
    on_h1_and_h2,
    peers::free_address,
    process::{Process, raise_descriptor_limit},
    within,
};

const STREAM: &str = "/api/v1/stream?authorization=Bearer%20songbird-of-the-harness";
/// What the relay may tell a browser to wait.
const COME_BACK: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3);

/// A stream in the test's hands, and all that came on it.
struct Text {
    body: Incoming,
    text: String,
}

impl Text {
    /// Asks for the stream as an EventSource does; fails unless it is one.
    async fn open(client: &Client) -> Self {
        Self::open_with(client, &[]).await
    }

    async fn open_with(client: &Client, headers: &[(&str, &str)]) -> Self {
        let mut call = client.call("GET", STREAM).header("Accept", "text/event-stream");
        for (name, value) in headers {
            call = call.header(name, value);
        }
        let response = call.open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        Self { body: response.into_body(), text: String::new() }
    }

    /// Reads on until `wanted` was seen, and gives all that came since the last time.
    async fn until(&mut self, wanted: &str) -> String {
        while !self.text.contains(wanted) {
            let Some(chunk) = next_chunk(&mut self.body).await else {
                panic!("the stream ended before {wanted:?}, after {:?}", self.text);
            };
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        std::mem::take(&mut self.text)
    }

    /// Reads to the end, which has to be a clean one.
    async fn end(mut self) -> String {
        while let Some(chunk) = next_chunk(&mut self.body).await {
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.text
    }
}

/// The only `retry:` field in `text`, which begins with it.
#[track_caller]
fn retry(text: &str) -> Duration {
    let field = text.strip_prefix("retry: ").and_then(|rest| rest.split("\n\n").next());
    let millis = field.unwrap_or_else(|| panic!("no retry field first: {text:?}")).parse().unwrap();
    assert_eq!(text.matches("retry:").count(), 1, "{text:?}");
    let retry = Duration::from_millis(millis);
    assert!(COME_BACK.contains(&retry), "{retry:?}");
    retry
}

/// A backend whose stream is `trouble` until `well`.
fn troubled(
    trouble: impl Fn() -> Reply + Send + Sync + 'static,
    well: &Arc<AtomicBool>,
    address: SocketAddr,
) -> BackendBuilder {
    let well = Arc::clone(well);
    Backend::builder()
        .at(address)
        .on("/api/v1/stream", move |_| if well.load(Ordering::Relaxed) { sovas_stream() } else { trouble() })
}

/// A stream with the headers that Sova's has.
fn sovas_stream() -> Reply {
    Reply::events().header("Cache-Control", "no-cache")
}

async fn relay_before(address: SocketAddr, backend: &str) -> Relay {
    Relay::builder().self_signed().backend(address).toml(&format!("[backend]\n{backend}")).start().await
}

/// Opens a stream while the backend is in `trouble` (`None`: nobody listens), sees it held, and joined when all
/// is well.
async fn held_then_joined(version: Version, trouble: Option<fn() -> Reply>) {
    let (address, well) = (free_address(), Arc::new(AtomicBool::new(false)));
    let mut backend = match trouble {
        Some(trouble) => Some(troubled(trouble, &well, address).start().await),
        None => None,
    };
    let relay = relay_before(address, "response_timeout = \"1s\"").await;
    let client = Client::https(&relay, version);
    let asked = Instant::now();
    let mut stream = Text::open(&client).await;
    let first = stream.until("\n\n: waiting for the server\n\n").await;
    let commented = Instant::now();
    assert!(commented - asked < Duration::from_secs(3), "{:?}", commented - asked);
    retry(&first);
    assert_eq!(stream.until("\n\n").await, ": waiting for the server\n\n");
    let pause = commented.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&pause), "{pause:?}");

    well.store(true, Ordering::Relaxed);
    let backend = match backend.take() {
        Some(backend) => backend,
        None => troubled(sovas_stream, &well, address).start().await,
    };
    let feed = backend.feed().await;
    for event in ["event: message_sent\ndata: {\"id\":1}\n\n", ": heartbeat\n\n", "data: 2\n\n"] {
        feed.send(event).await;
        assert_eq!(stream.until("\n\n").await, event, "joined, and nothing of ours in between");
    }
    drop(feed);
    assert_eq!(stream.end().await, "");
}

on_h1_and_h2! {
    async fn a_stream_whose_backend_cannot_be_had_is_held_and_joined(version) {
        let troubles: [Option<fn() -> Reply>; 6] = [
            None,
            Some(|| Reply::raw("")),
            Some(|| Reply::status("502 Bad Gateway")),
            Some(|| Reply::ok("busy").with_status("503 Service Unavailable")),
            Some(|| Reply::status("504 Gateway Timeout")),
            Some(Reply::silence),
        ];
        // All at once: each waits for the second comment.
        let mut cases = JoinSet::from_iter(troubles.map(|trouble| held_then_joined(version, trouble)));
        while let Some(case) = cases.join_next().await {
            case.unwrap();
        }
    }

    async fn a_stream_that_is_refused_for_a_reason_is_refused(version) {
        for status in ["401 UNAUTHORIZED", "403 FORBIDDEN", "404 NOT FOUND", "500 INTERNAL SERVER ERROR"] {
            let backend = Backend::builder()
                .on("/api/v1/stream", move |_| {
                    Reply::ok("{\"why\":1}").with_status(status).header("Content-Type", "application/json")
                })
                .start()
                .await;
            let relay = relay_before(backend.address(), "").await;
            let client = Client::https(&relay, version);
            let answer = client.call("GET", STREAM).header("Accept", "text/event-stream").send().await;
            assert_eq!(answer.status.as_str(), &status[..3]);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.text(), "{\"why\":1}");
            assert_eq!(backend.requests().len(), 1, "and not asked for twice");
        }
    }

    async fn a_refusal_that_comes_after_we_said_200_ends_the_stream_well(version) {
        let (address, well) = (free_address(), Arc::new(AtomicBool::new(false)));
        let refuse = || Reply::status("401 UNAUTHORIZED");
        let relay = relay_before(address, "").await;
        let client = Client::https(&relay, version);
        let mut stream = Text::open(&client).await;
        retry(&stream.until(": waiting for the server\n\n").await);
        let backend = troubled(refuse, &well, address).start().await;
        assert_eq!(stream.end().await, "");
        // The browser comes back to get it.
        let answer = client.call("GET", STREAM).header("Accept", "text/event-stream").send().await;
        assert_eq!(answer.status, 401);
        assert_eq!(backend.requests().len(), 2);
    }

    async fn a_stream_that_has_to_wait_is_tried_when_its_time_has_come(version) {
        let tries = Arc::new(std::sync::Mutex::new(Vec::new()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let reset = now.as_secs() + 4;
        let backend = Backend::builder()
            .on("/api/v1/stream", {
                let tries = Arc::clone(&tries);
                move |_| {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                    tries.lock().unwrap().push(now);
                    if now.as_secs() >= reset {
                        return sovas_stream();
                    }
                    Reply::ok("{}")
                        .with_status("429 TOO MANY REQUESTS")
                        .header("X-RateLimit-Limit", "10")
                        .header("X-RateLimit-Remaining", "0")
                        .header("X-RateLimit-Reset", &reset.to_string())
                }
            })
            .start()
            .await;
        let relay = relay_before(backend.address(), "").await;
        let client = Client::https(&relay, version);
        let mut stream = Text::open(&client).await;
        retry(&stream.until(": waiting for the server\n\n").await);
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        assert_eq!(stream.until("data: 1\n\n").await, "data: 1\n\n");
        let tries = tries.lock().unwrap().clone();
        assert_eq!(tries.len(), 2, "not once before its time: {tries:?}, {reset}");
        assert!(tries[1].as_secs() >= reset && tries[1].as_secs() <= reset + 6, "{tries:?}, {reset}");
    }

    async fn a_stream_is_held_no_longer_than_it_says(version) {
        let relay = relay_before(free_address(), "hold_streams = \"2s\"").await;
        let client = Client::https(&relay, version);
        let asked = Instant::now();
        let stream = Text::open(&client).await;
        retry(&stream.end().await);
        let held = asked.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&held), "{held:?}");
    }

    async fn a_stream_is_not_held_where_that_is_turned_off(version) {
        let settings = "hold_streams = \"0s\"\nretry_for = \"0s\"";
        let relay = relay_before(free_address(), settings).await;
        let client = Client::https(&relay, version);
        let answer = client.call("GET", STREAM).header("Accept", "text/event-stream").send().await;
        answer.assert_error(502, "backend unavailable");
    }

    async fn what_is_no_event_source_is_not_held(version) {
        let relay = relay_before(free_address(), "retry_for = \"0s\"").await;
        let client = Client::https(&relay, version);
        client.get(STREAM).await.assert_error(502, "backend unavailable");
        for (method, body) in [("POST", ""), ("GET", "body"), ("HEAD", "")] {
            let call = client.call(method, STREAM).header("Accept", "text/event-stream");
            let call = if body.is_empty() { call } else { call.body(body) };
            assert_eq!(call.send().await.status, 502, "{method}");
        }
    }

    async fn a_running_stream_that_breaks_between_events_ends_well_and_says_when_to_return(version) {
        let mut told = Vec::new();
        for (sent, broken) in [("data: 1\n\n", true), (": heartbeat\r\n\r\n", true), ("", true), ("data: 1\n\n", false)] {
            let backend = Backend::builder().on("/api/v1/stream", |_| sovas_stream()).start().await;
            let relay = relay_before(backend.address(), "").await;
            let client = Client::https(&relay, version);
            let mut stream = Text::open(&client).await;
            let feed = backend.feed().await;
            if !sent.is_empty() {
                feed.send(sent).await;
                assert_eq!(stream.until(sent).await, sent);
            }
            if broken {
                feed.break_off().await;
                told.push(retry(&stream.end().await));
            } else {
                drop(feed);
                assert_eq!(stream.end().await, "", "what the backend ends is its own affair");
            }
        }
        assert!(told.windows(2).any(|pair| pair[0] != pair[1]), "{told:?}");
    }

    async fn a_running_stream_that_breaks_in_an_event_ends_well_and_says_nothing(version) {
        for sent in ["data: 1", "data: 1\n", "data: 1\n\nda", "data: 1\r\n", ":"] {
            let backend = Backend::builder().on("/api/v1/stream", |_| sovas_stream()).start().await;
            let relay = relay_before(backend.address(), "").await;
            let client = Client::https(&relay, version);
            let mut stream = Text::open(&client).await;
            let feed = backend.feed().await;
            feed.send(sent).await;
            assert_eq!(stream.until(sent).await, sent);
            feed.break_off().await;
            assert_eq!(stream.end().await, "", "{sent:?}");
        }
    }

    async fn a_stream_that_was_joined_ends_well_too(version) {
        let (address, well) = (free_address(), Arc::new(AtomicBool::new(true)));
        let relay = relay_before(address, "").await;
        let client = Client::https(&relay, version);
        let mut stream = Text::open(&client).await;
        stream.until(": waiting for the server\n\n").await;
        let backend = troubled(sovas_stream, &well, address).start().await;
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        assert_eq!(stream.until("data: 1\n\n").await, "data: 1\n\n");
        feed.break_off().await;
        retry(&stream.end().await);
    }

    async fn another_sites_page_may_read_a_held_stream_as_far_as_the_backend_lets_it(version) {
        for (allowed, joined) in [(Some("*"), true), (Some("https://chat.example"), true), (None, false)] {
            let (address, page) = (free_address(), [("Origin", "https://chat.example")]);
            let relay = relay_before(address, "").await;
            let client = Client::https(&relay, version);
            let call = client.call("GET", STREAM).header("Accept", "text/event-stream");
            let response = call.header(page[0].0, page[0].1).open().await;
            assert_eq!(response.headers()["access-control-allow-origin"], "*", "or the page's EventSource is lost");
            let mut stream = Text { body: response.into_body(), text: String::new() };
            stream.until(": waiting for the server\n\n").await;
            let backend = Backend::builder()
                .at(address)
                .on("/api/v1/stream", move |_| match allowed {
                    Some(origin) => sovas_stream().header("Access-Control-Allow-Origin", origin),
                    None => sovas_stream(),
                })
                .start()
                .await;
            let feed = backend.feed().await;
            if joined {
                feed.send("data: 1\n\n").await;
                assert_eq!(stream.until("data: 1\n\n").await, "data: 1\n\n");
            } else {
                assert_eq!(stream.end().await, "", "the backend's words are not for that page");
            }
        }
    }
}

/// Streams of clients of their own, half of them over HTTP/1.1, half over HTTP/2.
fn sources(relay: &Relay, numbers: std::ops::Range<u32>) -> Vec<EventSource> {
    // HTTP/2 carries a hundred streams a connection, as a browser's would.
    let mut shared = Arc::new(Client::https(relay, Version::Http2));
    let h1 = Arc::new(Client::https(relay, Version::Http1));
    numbers
        .map(|number| {
            if number % 100 == 0 {
                shared = Arc::new(Client::https(relay, Version::Http2));
            }
            let client = if number % 2 == 0 { &h1 } else { &shared };
            let address = format!("198.18.{}.{}", number / 200, number % 200);
            EventSource::open(client, STREAM, &[("X-Forwarded-For", &address)])
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_notices_that_the_backend_was_killed_and_came_back() {
    const STREAMS: u32 = 200;
    const SOVA: [&str; 8] =
        ["--threads", "450", "--connections", "900", "--heartbeat", "1", "--stream-window", "60"];
    raise_descriptor_limit();
    let flask = Flask::start(&SOVA).await;
    let address = flask.address();
    let relay = Relay::builder()
        .self_signed()
        .backend(address)
        .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[backend]\nmax_connections = 500")
        .start()
        .await;
    let mut all = sources(&relay, 0..STREAMS);
    for source in &all {
        source.until("its stream", |story| story.comments > 0).await;
    }
    assert_eq!(flask.publish("before").await, u64::from(STREAMS));
    for source in &all {
        source.event("before").await;
    }

    drop(flask);
    let gone = Instant::now();
    all.extend(sources(&relay, STREAMS..2 * STREAMS));
    tokio::time::sleep_until((gone + Duration::from_secs(3)).into()).await;
    let flask = Flask::start_at(address, &SOVA).await;
    within("all streams to be back", async {
        while flask.publish("back").await < u64::from(2 * STREAMS) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let took = gone.elapsed();
    flask.publish("after").await;

    let mut stories = Vec::new();
    for source in &all {
        stories.push(source.event("after").await);
    }
    let (broken, new) = stories.split_at(STREAMS as usize);
    let returned: Vec<Instant> = broken.iter().map(|story| story.opened[1]).collect();
    let spread = *returned.iter().max().unwrap() - *returned.iter().min().unwrap();
    assert!(spread >= Duration::from_secs(2), "they come back all at once: in {spread:?}");
    let told: Vec<Duration> = broken.iter().map(|story| story.retries[0]).collect();
    assert!(told.iter().all(|retry| COME_BACK.contains(retry)), "{told:?}");
    let told = *told.iter().max().unwrap() - *told.iter().min().unwrap();
    assert!(told >= Duration::from_secs(2), "{told:?}");
    assert!(new.iter().all(|story| story.opened.len() == 1), "those that came meanwhile never noticed");
    println!("told within {told:?}, back within {spread:?}, all of them {took:?} after the kill");

    let logs = relay.logs();
    let count = |text: &str| logs.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("does not answer"), count("answers again")), (1, 1), "{}", logs.join("\n"));
}

#[tokio::test]
async fn sovas_limit_of_stream_starts_is_waited_out() {
    let flask = Flask::start(&["--stream-window", "4", "--heartbeat", "1"]).await;
    let relay = relay_before(flask.address(), "").await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    let all: Vec<_> = (0..12).map(|_| EventSource::open(&client, STREAM, &[])).collect();
    for source in &all {
        source.until("its head", |story| !story.opened.is_empty()).await;
    }
    within("the eleventh and the twelfth", async {
        while flask.publish("all").await < 12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for source in &all {
        let story = source.event("all").await;
        assert_eq!(story.opened.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_streams_cost_little_memory() {
    const STREAMS: usize = 2000;
    raise_descriptor_limit();
    // Over HTTP/1.1 each stream has a connection of its own, whose TLS and buffers take five times what the stream does
    // (measured, static: 21 KB idle, 25 KB with a held stream).
    for (version, most) in [(Version::Http1, 28 << 10), (Version::Http2, 14 << 10)] {
        let relay = Relay::builder().self_signed().backend(free_address()).static_binary().start().await;
        // HTTP/2 carries as many streams a connection as the relay takes where a client has many.
        let clients: Vec<_> = (0..=STREAMS / 24).map(|_| Client::https(&relay, version)).collect();
        let mut held = Vec::new();
        let mut before = 0;
        // Those of the first warm it up.
        for client in &clients {
            for _ in 0..24 {
                let mut stream = Text::open(client).await;
                stream.until(": waiting for the server\n\n").await;
                held.push(stream);
            }
            if before == 0 {
                before = relay.rss();
            }
        }
        let each = (relay.rss() - before) / (held.len() - 24) as u64;
        println!("{version:?}: {each} bytes for each held stream");
        assert!(each < most, "{version:?}: {each} bytes for each held stream");
    }
}

/// Chromium with a page of `page`'s and an EventSource for the stream of `relay`; `None` where there is neither
/// a browser nor CI, which must have one.
fn chromium(page: &Relay, relay: &Relay) -> Option<Process> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let browser = std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
    if !Path::new(&browser).exists() || !tests.join("node_modules").exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no Chromium, or no tests/browser/node_modules: run tests/run"
        );
        println!("skipped: no Chromium, or no tests/browser/node_modules");
        return None;
    }
    let mut command = Command::new("node");
    command
        .arg(tests.join("continuity.mjs"))
        .arg(format!("https://{}/", page.authority()))
        .arg(format!("https://{}{STREAM}", relay.authority()));
    Some(Process::spawn(command))
}

/// Takes the backend away for `down`, and sees the browser's EventSource get what comes after.
async fn chromium_keeps_its_stream(flask: Flask, chromium: &Process, down: Duration) -> Flask {
    let address = flask.address();
    let told = format!("before-{}", down.as_secs());
    published(&flask, chromium, &told).await;
    drop(flask);
    tokio::time::sleep(down).await;
    let flask = Flask::start_at(address, &[]).await;
    published(&flask, chromium, &format!("after-{}", down.as_secs())).await;
    assert!(
        !chromium.lines().iter().any(|line| line == "state CLOSED"),
        "the EventSource gave up: {:?}",
        chromium.lines()
    );
    flask
}

/// Publishes `event` until the browser tells of it, with its EventSource open.
async fn published(flask: &Flask, chromium: &Process, event: &str) {
    let wanted = format!("event {event} OPEN");
    let publishing = async {
        loop {
            flask.publish(event).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        _ = chromium.line(&wanted, |line| line == wanted) => {}
        () = publishing => {}
    }
}

#[tokio::test]
async fn chromium_never_gives_a_stream_up() {
    let flask = Flask::start(&[]).await;
    let relay = relay_before(flask.address(), "").await;
    let Some(mut chromium) = chromium(&relay, &relay) else { return };
    let flask = chromium_keeps_its_stream(flask, &chromium, Duration::from_secs(3)).await;
    if crate::harness::is_long() {
        chromium_keeps_its_stream(flask, &chromium, Duration::from_secs(40)).await;
    }
    println!("{:?}", chromium.lines());
    chromium.signal(Signal::TERM);
    assert!(chromium.end().await.success());
}

#[tokio::test]
async fn chromium_never_gives_a_stream_of_another_origin_up() {
    let flask = Flask::start(&[]).await;
    let page = relay_before(flask.address(), "").await;
    let address = free_address();
    let relay = relay_before(address, "").await;
    // It is held from the start.
    let Some(mut chromium) = chromium(&page, &relay) else { return };
    chromium.line("its state", |line| line == "state OPEN").await;
    let backend = Flask::start_at(address, &[]).await;
    chromium_keeps_its_stream(backend, &chromium, Duration::from_secs(1)).await;
    chromium.signal(Signal::TERM);
    assert!(chromium.end().await.success());
}
