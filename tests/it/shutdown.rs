//! SIGTERM: no new requests, the open ones end, exit 0 (attacks.md K4).

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, Relay, Reply,
    client::{count, next_chunk},
    on_h1_and_h2, within,
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
