//! `max_size`: asked for first, counted then (attacks.md M2).

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::harness::{
    Backend, Client, Relay, Reply,
    client::{count, next_chunk},
    on_h1_and_h2,
    peers::free_address,
    within,
};

const LIMIT: &str = "[[paths]]\nprefix = \"/attachment\"\naction = \"proxy\"\nmax_size = 1000";

async fn relay(backend: &Backend) -> Relay {
    Relay::builder().self_signed().toml(LIMIT).backend(backend.address()).start().await
}

fn methods(backend: &Backend) -> Vec<String> {
    backend.requests().into_iter().map(|request| request.method).collect()
}

/// Answers HEAD with `head` and everything else with `rest`.
async fn two_faced(head: fn() -> Reply, rest: fn() -> Reply) -> Backend {
    Backend::builder()
        .on("/attachment/1", move |request| match &*request.method {
            "HEAD" => head(),
            _ => rest(),
        })
        .start()
        .await
}

/// Feeds more than the limit into an event stream, of which no more than that comes through.
async fn is_cut_off(backend: &Backend, mut body: Incoming) {
    let feed = backend.feed().await;
    for _ in 0..3 {
        feed.send(vec![b'x'; 400]).await;
    }
    let mut came = Vec::new();
    // Whether it ends well or not: the browser asks again either way.
    within("the end", async {
        while let Some(Ok(frame)) = body.frame().await {
            came.extend(frame.into_data().unwrap_or_default());
        }
    })
    .await;
    let content = came.iter().filter(|byte| **byte == b'x').count();
    assert!(content <= 1000, "{content} bytes came through");
    feed.closed().await;
}

on_h1_and_h2! {
    async fn m2_the_size_is_asked_for_before_the_body(version) {
        let backend = Backend::builder().on("/attachment/1", |_| Reply::zeros(1000)).start().await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, version)
            .call("GET", "/attachment/1?q=1")
            .header("authorization", "Bearer t")
            .send()
            .await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1000));
        assert_eq!(methods(&backend), ["HEAD", "GET"]);
        for request in backend.requests() {
            assert_eq!(request.target, "/attachment/1?q=1");
            assert_eq!(request.header("authorization"), Some("Bearer t"), "asked as the client would");
            assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
        }
    }

    async fn m2_what_is_larger_is_413_and_its_body_is_not_asked_for(version) {
        let backend = Backend::builder().on("/attachment/1", |_| Reply::zeros(1001)).start().await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        client.get("/attachment/1").await.assert_error(413, "content too big");
        let head = client.call("HEAD", "/attachment/1").send().await;
        assert_eq!(head.status, 413);
        assert_eq!(methods(&backend), ["HEAD", "HEAD"]);
    }

    async fn m2_without_a_length_nothing_is_known_and_that_is_502(version) {
        let backend = two_faced(Reply::feed, || Reply::ok("small")).await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, version).get("/attachment/1").await;
        answer.assert_error(502, "cannot verify content size");
        assert_eq!(methods(&backend), ["HEAD"]);
    }

    async fn m2_a_backend_that_lies_about_a_chunked_body_is_cut_off_at_the_limit(version) {
        let backend = two_faced(|| Reply::zeros(10), Reply::feed).await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let response = client.call("GET", "/attachment/1").open().await;
        assert_eq!(response.status(), 200);
        let feed = backend.feed().await;
        feed.send(vec![b'x'; 900]).await;
        feed.send(vec![b'x'; 900]).await;
        let mut body = response.into_body();
        let (length, _) = within("the end", count(&mut body)).await.expect_err("the client can tell");
        assert!(length <= 1000, "{length} bytes came through");
        feed.closed().await;
    }

    async fn m2_a_backend_that_lies_about_the_length_gains_nothing(version) {
        let backend = two_faced(|| Reply::zeros(10), || Reply::zeros(100_000)).await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let response = client.call("GET", "/attachment/1").open().await;
        match response.status().as_u16() {
            413 => {}
            200 => {
                let mut body = response.into_body();
                let (length, _) = within("the end", count(&mut body)).await.expect_err("the client can tell");
                assert!(length <= 1000, "{length} bytes came through");
            }
            other => panic!("{other}"),
        }
    }

    async fn m2_event_streams_are_measured_too(version) {
        let backend = Backend::builder()
            .on("/attachment/large", |_| Reply::zeros(1001).header("Content-Type", "text/event-stream"))
            .on("/attachment/endless", |_| Reply::events())
            .start()
            .await;
        let relay = relay(&backend).await;
        let client = Client::https(&relay, version);
        let ask = |path| client.call("GET", path).header("accept", "text/event-stream");
        ask("/attachment/large").send().await.assert_error(413, "content too big");

        let body = ask("/attachment/endless").open().await.into_body();
        is_cut_off(&backend, body).await;
    }

    async fn m2_an_event_stream_that_was_held_first_is_measured_too(version) {
        let address = free_address();
        let relay = Relay::builder().self_signed().toml(LIMIT).backend(address).start().await;
        let client = Client::https(&relay, version);
        let call = client.call("GET", "/attachment/endless").header("accept", "text/event-stream");
        let mut body = call.open().await.into_body();
        next_chunk(&mut body).await.expect("it is held");
        let backend = Backend::builder().at(address).on("/attachment/endless", |_| Reply::events()).start().await;
        is_cut_off(&backend, body).await;
    }

    async fn m2_other_methods_are_not_measured(version) {
        let backend = Backend::builder().on("/attachment/1", |_| Reply::zeros(100)).start().await;
        let relay = relay(&backend).await;
        let answer = Client::https(&relay, version).call("POST", "/attachment/1").body("x").send().await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 100));
        assert_eq!(methods(&backend), ["POST"]);
    }

    async fn m2_a_backend_that_cannot_be_had_is_502(version) {
        let relay = Relay::builder()
            .self_signed()
            .toml(LIMIT)
            .backend(free_address())
            .start()
            .await;
        let answer = Client::https(&relay, version).get("/attachment/1").await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("backend unavailable"), "{answer:?}");
    }
}
