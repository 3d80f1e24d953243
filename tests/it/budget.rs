//! What is opened to the backend at once: never more than it can take, and always a share for ordinary requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::harness::{
    Answer, Backend, Client, EventSource, Flask, Raw, Relay, Reply, Version,
    client::next_chunk,
    on_h1_and_h2,
    relay::{run_check, stderr},
    within,
};

const STREAM: &str = "/api/v1/stream?authorization=Bearer%20songbird-of-the-harness";

/// An EventSource of the client at `address`.
fn source(client: &Arc<Client>, address: &str) -> EventSource {
    EventSource::open(client, STREAM, &[("X-Forwarded-For", address)])
}

async fn get_as(client: &Client, target: &str, address: &str) -> Answer {
    client.call("GET", target).header("X-Forwarded-For", address).send().await
}

/// Waits until the peer feeds `count` streams.
async fn feeding(flask: &Flask, count: u64) {
    within(&format!("{count} streams"), async {
        while flask.publish("tick").await != count {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// At most four connections are open, besides those whose closing the backend has not come to see yet.
#[track_caller]
fn few_open(backend: &Backend) {
    assert!(backend.open() <= 8, "{} open", backend.open());
}

#[tokio::test]
async fn idle_connections_of_others_make_room() {
    let backend = Backend::start().await;
    let relay =
        Relay::builder().backend(backend.address()).toml("[backend]\nmax_connections = 4").start().await;
    let client = Client::http(relay.http());
    for round in 0..2 {
        for number in 1..=40 {
            let answer = get_as(&client, "/x", &format!("203.0.113.{number}")).await;
            assert_eq!(answer.status, 200, "client {number} in round {round}");
            few_open(&backend);
        }
    }
    assert!(backend.opened() >= 76, "each has its own: {}", backend.opened());
}

#[tokio::test]
async fn forty_clients_at_once_share_four_connections() {
    let backend = Backend::start().await;
    let relay =
        Relay::builder().backend(backend.address()).toml("[backend]\nmax_connections = 4").start().await;
    let client = Arc::new(Client::http(relay.http()));
    let mut all = JoinSet::new();
    for number in 1..=40 {
        let client = Arc::clone(&client);
        all.spawn(async move {
            for _ in 0..5 {
                assert_eq!(get_as(&client, "/x", &format!("203.0.113.{number}")).await.status, 200);
            }
        });
    }
    while let Some(one) = within("forty clients", all.join_next()).await {
        one.unwrap();
        few_open(&backend);
    }
    assert_eq!(backend.requests().len(), 200);
    within("the rest to be closed", async {
        while backend.open() > 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

on_h1_and_h2! {
    async fn a_request_too_many_waits_and_is_then_told_that_the_server_is_busy(version) {
        let backend = Backend::builder().on("/api/v1/long", |_| Reply::feed()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nmax_connections = 2\nqueue_for = \"1s\"")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.push((client.call("GET", "/api/v1/long").open().await, backend.feed().await));
        }
        let asked = Instant::now();
        let answer = client.get("/api/v1/x").await;
        answer.assert_error(503, "server busy");
        let retry_after: u64 = answer.header("retry-after").expect("it says when").parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        let waited = asked.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&waited), "{waited:?}");

        // One that is given back in time is the next one's.
        let waiting = client.get("/api/v1/x");
        let giving_back = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (mut response, feed) = taken.pop().unwrap();
            drop(feed);
            assert_eq!(next_chunk(response.body_mut()).await, None);
        };
        let (answer, ()) = tokio::join!(waiting, giving_back);
        assert_eq!(answer.status, 200);
        assert_eq!(backend.opened(), 2, "the very connection");
    }

    async fn a_stream_too_many_is_held_and_joined_when_one_ends(version) {
        let backend = Backend::builder().on("/api/v1/stream", |_| Reply::events()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nmax_streams = 2")
            .start()
            .await;
        let client = Arc::new(Client::https(&relay, version));
        let mut live = Vec::new();
        for _ in 0..2 {
            live.push((source(&client, "203.0.113.1"), backend.feed().await));
        }
        let third = source(&client, "203.0.113.1");
        third.until("to be held", |story| story.comments == 1 && story.retries.len() == 1).await;
        assert_eq!(backend.requests().len(), 2, "a held stream asks nothing of the backend");
        assert_eq!(backend.open(), 2, "and has no connection");

        let (_ended, feed) = live.pop().unwrap();
        drop(feed);
        let freed = Instant::now();
        let feed = backend.feed().await;
        assert!(freed.elapsed() < Duration::from_secs(1), "{:?}", freed.elapsed());
        feed.send("data: joined\n\n").await;
        let story = third.event("joined").await;
        assert_eq!(story.opened.len(), 1, "without being opened again");
    }

    async fn streams_leave_a_share_of_the_connections_to_ordinary_requests(version) {
        let backend = Backend::builder().on("/api/v1/stream", |_| Reply::events()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[backend]\nmax_connections = 8\nqueue_for = \"1s\"")
            .start()
            .await;
        let client = Arc::new(Client::https(&relay, version));
        let all: Vec<_> = (0..20).map(|_| source(&client, "203.0.113.1")).collect();
        for source in &all {
            source.until("its head", |story| !story.opened.is_empty()).await;
        }
        assert!(backend.open() < 8, "{} of 8", backend.open());
        for _ in 0..20 {
            assert_eq!(client.get("/api/v1/x").await.text(), "ok");
        }
    }
}

on_h1_and_h2! {
    async fn l1_downloads_that_say_they_are_streams_are_one_clients_quarter_too(version) {
        let backend = Backend::builder().on("/api/v1/long", |_| Reply::feed()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[backend]\nmax_connections = 40\nqueue_for = \"1s\"")
            .start()
            .await;
        let mut downloads = JoinSet::new();
        for _ in 0..40 {
            let client = Client::https(&relay, version);
            downloads.spawn(async move {
                let call = client.call("GET", "/api/v1/long").header("Accept", "text/event-stream");
                let answer = call.header("X-Forwarded-For", "203.0.113.1").open().await;
                let is_download = answer.headers().get("content-type").is_none();
                (answer.status().as_u16(), is_download, client, answer)
            });
        }
        let bystander = Client::https(&relay, version);
        let mut answers = Vec::new();
        while answers.len() < 40 {
            let answer = within("an answer", downloads.join_next()).await.unwrap().unwrap();
            answers.push(answer);
            let asked = Instant::now();
            assert_eq!(get_as(&bystander, "/api/v1/x", "203.0.113.2").await.status, 200);
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
        let taken = answers.iter().filter(|(status, is_download, ..)| *status == 200 && *is_download).count();
        assert_eq!(taken, 10, "a quarter of 40");
        assert!(answers.iter().any(|(status, ..)| *status == 503), "a request that finds no place");
    }

    async fn a_stream_that_nobody_asked_for_counts_as_one(version) {
        let backend = Backend::builder().on("/api/v1/stream", |_| Reply::events()).start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[backend]\nmax_streams = 12")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let open = async |address: &str, accept: &str| {
            let call = client.call("GET", "/api/v1/stream").header("X-Forwarded-For", address);
            call.header("Accept", accept).open().await
        };
        let mut live = Vec::new();
        for _ in 0..6 {
            live.push((open("203.0.113.1", "*/*").await, backend.feed().await));
        }
        assert_eq!(open("203.0.113.1", "*/*").await.status(), 503, "its half is taken");
        // In any letter case it is an EventSource, which can wait.
        let held = open("203.0.113.1", "Text/Event-Stream").await;
        assert_eq!((held.status().as_u16(), backend.requests().len()), (200, 7));
        for _ in 0..6 {
            live.push((open("203.0.113.2", "*/*").await, backend.feed().await));
        }
        assert_eq!(open("203.0.113.3", "*/*").await.status(), 503, "all are taken");
        assert_eq!(get_as(&client, "/api/v1/x", "203.0.113.3").await.status, 200);
    }
}

#[tokio::test]
async fn l1_a_hundred_slow_uploads_of_one_client_leave_three_quarters_to_others() {
    let backend = Backend::start().await;
    let relay =
        Relay::builder().backend(backend.address()).toml("[backend]\nqueue_for = \"1s\"").start().await;
    let mut uploads = JoinSet::new();
    for number in 0..100 {
        let mut raw = Raw::plain(relay.http()).await;
        // Addresses of one /64 are one client.
        raw.send(format!(
            "POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 2001:db8::{number}\r\n\
             Content-Length: 60000000\r\n\r\nx"
        ))
        .await;
        uploads.spawn(async move { raw.read_response().await.status() });
    }
    within("its share to be taken", async {
        while backend.open() < 22 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let client = Arc::new(Client::http(relay.http()));
    let mut others = JoinSet::new();
    for number in 1..=40 {
        let client = Arc::clone(&client);
        others.spawn(async move {
            for _ in 0..5 {
                assert_eq!(get_as(&client, "/x", &format!("203.0.113.{number}")).await.status, 200);
            }
        });
    }
    within("the others", others.join_all()).await;
    for _ in 22..100 {
        assert_eq!(within("a refusal", uploads.join_next()).await.unwrap().unwrap(), 503);
    }
    assert_eq!(backend.requests().len(), 222, "a quarter of 90, and the others");

    // What is given back is the same client's again.
    uploads.abort_all();
    let again = within("a place", async {
        loop {
            let answer = get_as(&client, "/x", "2001:db8::1").await;
            if answer.status != 503 {
                return answer;
            }
        }
    });
    assert_eq!(again.await.status, 200);
}

#[tokio::test]
async fn a_trusted_proxy_that_names_nobody_has_all_connections() {
    let backend = Backend::builder().on("/api/v1/long", |_| Reply::feed()).start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 8\nqueue_for = \"1s\"")
        .start()
        .await;
    let client = Client::http(relay.http());
    let mut taken = Vec::new();
    for _ in 0..8 {
        taken.push((client.call("GET", "/api/v1/long").open().await, backend.feed().await));
    }
}

#[tokio::test]
async fn one_client_has_half_of_the_streams_and_joins_when_one_of_its_own_ends() {
    let backend = Backend::builder().on("/api/v1/stream", |_| Reply::events()).start().await;
    let relay = Relay::builder().backend(backend.address()).toml("[backend]\nmax_streams = 12").start().await;
    let client = Arc::new(Client::http(relay.http()));
    let mut live = Vec::new();
    for _ in 0..6 {
        live.push((source(&client, "203.0.113.1"), backend.feed().await));
    }
    let held = source(&client, "203.0.113.1");
    held.until("to be held", |story| story.comments == 1 && story.retries.len() == 1).await;
    for number in 2..=4 {
        let other = source(&client, &format!("203.0.113.{number}"));
        live.push((other, backend.feed().await));
    }
    // One of another client makes no room in its share.
    drop(live.pop());
    let asked = get_as(&client, "/x", "203.0.113.1").await;
    assert_eq!((asked.status.as_u16(), backend.requests().len()), (200, 10));

    let (_ended, feed) = live.remove(0);
    drop(feed);
    backend.feed().await.send("data: joined\n\n").await;
    let story = held.event("joined").await;
    assert_eq!(story.opened.len(), 1, "without being opened again");
}

/// Asks `count` ordinary requests, four at a time and each as another client; gives how long each took, sorted.
async fn ordinary(client: &Arc<Client>, count: usize) -> Vec<Duration> {
    let mut all = JoinSet::new();
    for worker in 0..4 {
        let client = Arc::clone(client);
        all.spawn(async move {
            let mut took = Vec::new();
            for number in 0..count / 4 {
                let asked = Instant::now();
                let address = format!("198.19.{worker}.{}", number % 10);
                assert_eq!(get_as(&client, "/api/v1/channel/1/messages", &address).await.status, 200);
                took.push(asked.elapsed());
            }
            took
        });
    }
    let mut took = all.join_all().await.concat();
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_leave_sova_threads_to_answer_with() {
    const STREAMS: usize = 200;
    let flask = Flask::start(&["--heartbeat", "1"]).await;
    let relay = Relay::builder()
        .self_signed()
        .backend(flask.address())
        .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[backend]\nmax_streams = 24")
        .start()
        .await;
    let clients: Vec<_> = (0..4).map(|_| Arc::new(Client::https(&relay, Version::Http2))).collect();
    let all: Vec<_> =
        (0..STREAMS).map(|number| source(&clients[number % 4], &format!("198.18.0.{number}"))).collect();
    for source in &all {
        source.until("its first comment", |story| story.comments > 0).await;
    }
    feeding(&flask, 24).await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    let took = ordinary(&client, 400).await;
    let p99 = took[took.len() * 99 / 100];
    println!("p50 {:?}, p99 {p99:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    feeding(&flask, 24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_were_left_do_not_take_sovas_last_threads() {
    // Waitress notices that a stream was left when it writes the next comments.
    let flask = Flask::start(&["--heartbeat", "3"]).await;
    let relay = Relay::builder()
        .self_signed()
        .backend(flask.address())
        .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[backend]\nmax_streams = 24")
        .start()
        .await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    let open = |round: usize| -> Vec<_> {
        (0..24).map(|number| source(&client, &format!("198.18.{round}.{number}"))).collect()
    };
    for round in 0..2 {
        let all = open(round);
        for source in &all {
            source.until("its first comment", |story| story.comments > 0).await;
        }
        // Every tab is reloaded.
        drop(all);
    }
    let again = open(2);
    let took = ordinary(&client, 40).await;
    let longest = took[took.len() - 1];
    println!("longest {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    drop(again);
}

#[tokio::test]
async fn what_cannot_be_is_told_at_check() {
    for (settings, marked, reason) in [
        ("client_address = \"loopback\"\nurl = \"http://192.0.2.1:80\"", "\"loopback\"", "127.0.0.0/8"),
        ("client_address = \"loopback\"\nurl = \"http://[::1]:80\"", "\"loopback\"", "127.0.0.0/8"),
        ("client_address = \"loopback\"\nurl = \"http://sova.example:80\"", "\"loopback\"", "127.0.0.0/8"),
        ("client_address = \"peer\"", "\"peer\"", "header"),
        ("max_connections = 20\nmax_streams = 21", "max_streams = 21", "max_connections"),
        ("max_streams = 91", "max_streams = 91", "max_connections"),
        ("max_connections = 0", "max_connections = 0", "1 to"),
        ("max_streams = -1", "max_streams = -1", "1 to"),
        ("hold_streams = 600", "600", "unit"),
        ("retry_for = 5", "retry_for = 5", "unit"),
        ("queue_for = \"10\"", "\"10\"", "unit"),
    ] {
        let output = run_check(&format!("version = 1\n[backend]\n{settings}\n")).await;
        let said = format!("{settings}\n---\n{}", stderr(&output));
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains('^') && stderr(&output).contains(marked), "{said}");
        assert!(stderr(&output).contains(reason), "{reason:?} is not said: {said}");
    }
    for settings in [
        "client_address = \"loopback\"\nurl = \"http://localhost:80\"",
        "client_address = \"loopback\"\nurl = \"http://127.3.2.1:80\"",
        "max_streams = 0",
        "max_connections = 20\nmax_streams = 20",
        "hold_streams = \"0s\"\nretry_for = \"0s\"\nqueue_for = \"0s\"",
    ] {
        let rule = "[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"";
        let output = run_check(&format!("version = 1\n[backend]\n{settings}\n{rule}\n")).await;
        assert_eq!(output.status.code(), Some(0), "{settings}\n{}", stderr(&output));
    }
}
