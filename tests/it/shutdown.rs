//! SIGTERM: no new requests, the open ones end, exit 0 (attacks.md K4).

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, Relay, Reply, Version,
    client::{count, next_chunk},
    load::{Amount, Load, ticking},
    on_h1_and_h2,
    process::raise_descriptor_limit,
    within,
};

on_h1_and_h2! {
    async fn k4_an_open_request_is_finished_first(version) {
        let backend = Backend::builder().on("/slow", |_| Reply::feed()).start().await;
        let mut relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/slow").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("first").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "first");

        let address = relay.https();
        relay.signal(Signal::TERM);
        within("the listener to close", async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        feed.send("second").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "second");
        drop(feed);
        assert_eq!(next_chunk(&mut body).await, None);
        drop(client);
        assert_eq!(relay.end().await.code(), Some(0));
    }

    async fn k4_event_streams_end_first_and_say_when_to_come_back(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let mut relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/events").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\n\n");
        let asked = Instant::now();
        relay.signal(Signal::TERM);
        let last = next_chunk(&mut body).await.unwrap();
        let last = String::from_utf8(last.to_vec()).unwrap();
        let retry: u64 = last.strip_prefix("retry: ").unwrap().trim_end().parse().unwrap();
        assert!((500..=3000).contains(&retry) && last.ends_with("\n\n"), "{last:?}");
        assert_eq!(next_chunk(&mut body).await, None);
        drop(client);
        assert_eq!(relay.end().await.code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    }

    async fn k4_a_stream_in_the_middle_of_an_event_gets_to_its_end(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/events").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("data: 1\nda").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\nda");
        relay.signal(Signal::TERM);
        relay.log_with(&["ending when what is open has ended"]).await;
        feed.send("ta: 2\n\n").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "ta: 2\n\n");
        assert!(next_chunk(&mut body).await.unwrap().starts_with(b"retry: "));
        assert_eq!(next_chunk(&mut body).await, None);
    }

    async fn k4_what_does_not_end_is_ended_at_the_limit(version) {
        let backend = Backend::builder().on("/slow", |_| Reply::feed()).start().await;
        let mut relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[limits]\ndrain = \"1s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/slow").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("first").await;
        let asked = Instant::now();
        relay.signal(Signal::TERM);
        assert_eq!(relay.end().await.code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        // Cleanly or not: the stream is over.
        let _ = within("the end", count(&mut body)).await;
        feed.closed().await;
    }

    async fn an_idle_connection_does_not_hold_the_end_up(version) {
        let backend = Backend::start().await;
        let mut relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        client.get("/x").await;
        let mut idle = crate::harness::Raw::tls(&relay).await;
        let _never_spoke = crate::harness::Raw::plain(relay.https()).await;
        idle.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        idle.read_response().await;
        let asked = Instant::now();
        relay.signal(Signal::TERM);
        assert_eq!(relay.end().await.code(), Some(0));
        // A connection in its handshake may have its time.
        assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn sigint_ends_it_too() {
    let mut relay = Relay::builder().self_signed().start().await;
    relay.signal(Signal::INT);
    assert_eq!(relay.end().await.code(), Some(0));
}

on_h1_and_h2! {
    async fn k4_a_stream_that_is_never_silent_ends_too(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let mut relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/events").open().await.into_body();
        let feed = backend.feed().await;
        // As fast as it is taken. Large, since many small frames at once are an attack for an HTTP/2 client.
        let event = || format!("data: {}\n\n", "x".repeat(4000));
        let (sent, said) = tokio::sync::watch::channel(0);
        let speaking = tokio::spawn(async move {
            while feed.offer(event()).await {
                sent.send_modify(|count| *count += 1);
            }
        });
        // Until every buffer on the way is full, so that there is always more.
        let mut before = 0;
        within("the buffers to fill", async {
            while before == 0 || *said.borrow() > before {
                before = *said.borrow();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
        .await;
        relay.signal(Signal::TERM);
        relay.log_with(&["ending when what is open has ended"]).await;
        let mut last = Vec::new();
        let mut length = 0;
        while let Some(chunk) = next_chunk(&mut body).await {
            // Slower than the backend.
            tokio::time::sleep(Duration::from_micros(200)).await;
            length += chunk.len();
            last = chunk.to_vec();
            assert!(length < 200_000_000, "it goes on and on");
        }
        let last = String::from_utf8(last).unwrap();
        assert!(last.rsplit("\n\n").nth(1).unwrap().starts_with("retry: "), "{last:?}");
        drop(client);
        assert_eq!(relay.end().await.code(), Some(0));
        speaking.await.unwrap();
    }

    async fn k4_a_held_stream_ends_well(version) {
        let nobody = crate::harness::peers::free_address();
        let mut relay = Relay::builder().self_signed().backend(nobody).start().await;
        let client = Client::https(&relay, version);
        let call = client.call("GET", "/events").header("Accept", "text/event-stream");
        let mut body = call.open().await.into_body();
        assert!(next_chunk(&mut body).await.unwrap().starts_with(b"retry: "));
        relay.signal(Signal::TERM);
        while let Some(chunk) = next_chunk(&mut body).await {
            assert!(chunk.starts_with(b": "), "{chunk:?}");
        }
        drop(client);
        assert_eq!(relay.end().await.code(), Some(0));
    }
}

#[tokio::test]
async fn k4_a_request_that_crosses_the_end_is_answered_and_told_that_it_was_the_last() {
    let backend = Backend::start().await;
    let mut relay = Relay::builder()
        .self_signed()
        .toml("[[paths]]\nprefix = \"/blocked\"\naction = \"block\"")
        .toml("[[paths]]\nprefix = \"/x\"\naction = \"proxy\"")
        .backend(backend.address())
        .start()
        .await;
    // One that has asked before, and one that was only just accepted.
    let mut idle = crate::harness::Raw::tls(&relay).await;
    idle.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.read_response().await.header("connection"), None);
    let [fresh, another] = [crate::harness::Raw::tls(&relay).await, crate::harness::Raw::tls(&relay).await];
    relay.signal(Signal::TERM);
    relay.log_with(&["ending when what is open has ended"]).await;
    // The backend's answer takes a moment; our own is there before anybody looks.
    for (mut connection, path, status) in [(idle, "/x", 200), (fresh, "/x", 200), (another, "/blocked", 403)]
    {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = connection.read_response().await;
        assert_eq!((answer.status(), answer.header("connection")), (status, Some("close")), "{path}");
        assert_eq!(connection.read_to_end().await, b"");
    }
    assert_eq!(relay.end().await.code(), Some(0));
}

#[tokio::test]
async fn k4_a_second_signal_ends_at_once() {
    let backend = Backend::builder().on("/slow", |_| Reply::feed()).start().await;
    let mut relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let client = Client::https(&relay, Version::Http2);
    let _open = client.call("GET", "/slow").open().await;
    let asked = Instant::now();
    relay.signal(Signal::TERM);
    relay.log_with(&["ending when what is open has ended"]).await;
    relay.signal(Signal::TERM);
    assert_eq!(relay.end().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn k4_a_tunnel_is_closed_at_the_limit() {
    let backend = Backend::builder().on("/ws", |_| Reply::tunnel("websocket")).start().await;
    let mut relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\ndrain = \"1s\"")
        .start()
        .await;
    let mut tunnel = crate::harness::Raw::tls(&relay).await;
    tunnel
        .send("GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(tunnel.read_response().await.status(), 101);
    let asked = Instant::now();
    relay.signal(Signal::TERM);
    // It stands until then.
    relay.log_with(&["ending when what is open has ended", "open=1 "]).await;
    tunnel.send("still here").await;
    assert_eq!(tunnel.read(10).await, b"still here");
    assert_eq!(relay.end().await.code(), Some(0));
    assert!((900..5000).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn k4_a_relay_with_streams_and_uploads_drains_within_its_time_and_breaks_nothing_off() {
    raise_descriptor_limit();
    let amount = if crate::harness::is_long() {
        Amount { workers: 0, ..Amount::LARGE }
    } else {
        Amount { streams: 100, workers: 0, ..Amount::SMALL }
    };
    let (backend, ticks) = ticking(amount.tick).await;
    let mut relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 2000\n[log]\naccess = false")
        .start()
        .await;
    let mut load = Load::start(&relay, amount).await;
    load.all_streams_go_on(&ticks).await;
    let asked = Instant::now();
    relay.signal(Signal::TERM);
    let mut ended = tokio::task::JoinSet::new();
    for stream in load.streams.drain(..) {
        // Dropped then, since it would come back, and nobody serves.
        ended.spawn(async move { stream.after_end().await });
    }
    let mut ends = Vec::new();
    for story in ended.join_all().await {
        let retry = *story.retries.last().unwrap();
        assert!((500..=3000).contains(&retry.as_millis()), "{story:?}");
        ends.push(story.ended[0] - asked);
    }
    ends.sort();
    // The uploads go on all the while, and end when they are whole.
    drop(load.stop().await);
    assert_eq!(relay.end().await.code(), Some(0));
    println!(
        "{} streams ended between {:?} and {:?}; with {} uploads the end came after {:?}",
        ends.len(),
        ends[0],
        ends[ends.len() - 1],
        amount.uploads,
        asked.elapsed()
    );
    let spread = ends[ends.len() - 1] - ends[0];
    assert!(spread > Duration::from_millis(amount.streams as u64 * 5), "{spread:?}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}
