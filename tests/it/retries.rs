//! What is sent again and what never is; and that nothing is left over of requests whose client has gone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::harness::{
    Backend, Client, EventSource, Relay, Reply, Version, on_h1_and_h2, peers::free_address,
};

const STREAM: &str = "/api/v1/stream?authorization=Bearer%20songbird-of-the-harness";

async fn relay_before(address: SocketAddr, backend: &str) -> Relay {
    Relay::builder().self_signed().backend(address).toml(&format!("[backend]\n{backend}")).start().await
}

/// A backend that closes the first connection without an answer.
async fn resets_once() -> Backend {
    let asked = AtomicUsize::new(0);
    Backend::builder()
        .on("/api/v1/x", move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::raw(""),
            _ => Reply::ok("ok"),
        })
        .start()
        .await
}

on_h1_and_h2! {
    async fn a_post_that_was_not_sent_is_held_and_sent_once(version) {
        let address = free_address();
        let relay = relay_before(address, "").await;
        let client = Client::https(&relay, version);
        let (streamed, body) = client.call("POST", "/api/v1/streamed").streamed();
        let pieces = async {
            for piece in ["one ", "two ", "three"] {
                body.send(Bytes::from(piece)).await.unwrap();
            }
            drop(body);
        };
        let start = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Backend::builder().at(address).start().await
        };
        let whole = client.call("POST", "/api/v1/whole").body("a message");
        let (whole, streamed, (), backend) = tokio::join!(whole.send(), streamed.send(), pieces, start);
        assert_eq!((whole.status.as_u16(), streamed.status.as_u16()), (200, 200));
        let mut requests = backend.requests();
        requests.sort_by(|one, other| one.target.cmp(&other.target));
        let seen: Vec<_> = requests.iter().map(|request| (request.path(), &request.body[..])).collect();
        assert_eq!(seen, [("/api/v1/streamed", &b"one two three"[..]), ("/api/v1/whole", b"a message")]);
    }

    async fn a_request_that_was_never_sent_is_given_up_when_its_time_is_over(version) {
        let relay = relay_before(free_address(), "retry_for = \"1s\"").await;
        let asked = Instant::now();
        let answer = Client::https(&relay, version).call("POST", "/api/v1/x").body("x").send().await;
        answer.assert_error(502, "backend unavailable");
        let held = asked.elapsed();
        assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&held), "{held:?}");
    }

    async fn a_post_on_a_kept_connection_that_was_closed_is_sent_on_another(version) {
        let backend = Backend::start().await;
        let relay = relay_before(backend.address(), "").await;
        let client = Client::https(&relay, version);
        for number in 0..20 {
            let target = format!("/api/v1/{number}");
            assert_eq!(client.call("POST", &target).body("x").send().await.status, 200);
            backend.close_idle().await;
        }
        let targets: Vec<_> = backend.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, (0..20).map(|number| format!("/api/v1/{number}")).collect::<Vec<_>>());
    }

    async fn what_may_be_repeated_is_after_a_reset_before_any_byte_of_the_response(version) {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            let backend = resets_once().await;
            let relay = relay_before(backend.address(), "").await;
            let answer = Client::https(&relay, version).call(method, "/api/v1/x?q=1").send().await;
            assert_eq!(answer.status, 200, "{method}");
            let requests = backend.requests();
            assert_eq!(requests.len(), 2, "{method}");
            assert_eq!(requests[0].head, requests[1].head, "the same request");
        }
    }

    async fn what_may_not_be_repeated_is_not(version) {
        for (method, body) in
            [("POST", ""), ("POST", "x"), ("PATCH", ""), ("PATCH", "x"), ("PUT", "x"), ("DELETE", "x"), ("GET", "x")]
        {
            let backend = resets_once().await;
            let relay = relay_before(backend.address(), "").await;
            let client = Client::https(&relay, version);
            let call = client.call(method, "/api/v1/x");
            let call = if body.is_empty() { call } else { call.body(body) };
            call.send().await.assert_error(502, "backend unavailable");
            assert_eq!(backend.requests().len(), 1, "{method} {body:?}");
        }
    }

    async fn nothing_is_repeated_once_a_response_has_begun(version) {
        for begun in ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2"] {
            let backend = Backend::builder().on("/api/v1/x", move |_| Reply::raw(begun)).start().await;
            let relay = relay_before(backend.address(), "retry_for = \"2s\"").await;
            let answer = Client::https(&relay, version).get("/api/v1/x").await;
            answer.assert_error(502, "backend unavailable");
            assert_eq!(backend.requests().len(), 1, "{begun:?}");
        }
    }

    async fn the_time_a_request_was_held_is_not_the_backends(version) {
        let address = free_address();
        let relay = relay_before(address, "response_timeout = \"1s\"").await;
        let client = Client::https(&relay, version);
        let start = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Backend::builder().at(address).start().await
        };
        let (got, posted, _backend) = tokio::join!(
            client.get("/api/v1/x"),
            client.call("POST", "/api/v1/x").body("x").send(),
            start
        );
        assert_eq!((got.text(), posted.text()), ("ok", "ok"));
    }

    async fn k3_clients_that_go_leave_nothing_behind(version) {
        const CLIENTS: usize = 500;
        let backend = Backend::builder()
            .on("/api/v1/stream", |_| Reply::events())
            .on("/api/v1/silent", |_| Reply::silence())
            .start()
            .await;
        let relay = relay_before(backend.address(), "").await;
        for round in 0..CLIENTS / 50 {
            let mut all = JoinSet::new();
            for number in 0..50 {
                let client = Client::https(&relay, version);
                all.spawn(async move {
                    let target = if number % 2 == 0 { STREAM } else { "/api/v1/silent" };
                    let call = client.call("GET", target).header("Accept", "text/event-stream");
                    let _ = tokio::time::timeout(Duration::from_secs(60), call.open()).await;
                    std::future::pending::<()>().await;
                });
            }
            backend
                .wait("fifty requests", |requests| requests.len() == (round + 1) * 50)
                .await;
            all.shutdown().await;
            let gone = Instant::now();
            backend.wait_open(0).await;
            assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
        }
        assert_eq!(Client::https(&relay, version).get("/api/v1/x").await.text(), "ok");
        assert_eq!(backend.open(), 1);
    }

    async fn k3_held_streams_that_are_left_ask_for_nothing_more(version) {
        let backend = Backend::builder().on("/api/v1/stream", |_| Reply::events()).start().await;
        let relay = relay_before(backend.address(), "max_streams = 1").await;
        let first = EventSource::open(&Arc::new(Client::https(&relay, version)), STREAM, &[]);
        let feed = backend.feed().await;
        for _ in 0..10 {
            let client = Arc::new(Client::https(&relay, version));
            let held: Vec<_> = (0..50).map(|_| EventSource::open(&client, STREAM, &[])).collect();
            for source in &held {
                source.until("to be held", |story| story.comments == 1).await;
            }
        }
        assert_eq!(backend.requests().len(), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The place that is free now is nobody's who has gone.
        drop(feed);
        first.until("its end", |story| story.ended.len() == 1).await;
        drop(first);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(backend.requests().len(), 1, "none of them is still waiting");
        let next = EventSource::open(&Arc::new(Client::https(&relay, version)), STREAM, &[]);
        backend.feed().await.send("data: 1\n\n").await;
        next.event("1").await;
    }

    async fn one_line_when_the_backend_goes_and_one_when_it_is_back(version) {
        let address = free_address();
        let relay = relay_before(address, "retry_for = \"1s\"").await;
        let client = Arc::new(Client::https(&relay, version));
        let streams: Vec<_> = (0..20).map(|_| EventSource::open(&client, STREAM, &[])).collect();
        for _ in 0..2 {
            let mut all = JoinSet::new();
            for _ in 0..20 {
                let client = Arc::clone(&client);
                all.spawn(async move { client.get("/api/v1/x").await.status.as_u16() });
            }
            assert_eq!(all.join_all().await, [502; 20]);
        }
        let count = |text: &str| relay.logs().iter().filter(|line| line.contains(text)).count();
        assert_eq!((count("does not answer"), count("answers again")), (1, 0));
        let _backend = Backend::builder().at(address).on("/api/v1/stream", |_| Reply::events()).start().await;
        relay.log_with(&["the backend answers again"]).await;
        for _ in 0..20 {
            assert_eq!(client.get("/api/v1/x").await.status, 200);
        }
        assert_eq!((count("does not answer"), count("answers again")), (1, 1));
        let line = relay.log_with(&["does not answer"]).await;
        assert!(line.contains("WARN") && line.contains(&address.to_string()), "{line}");
        drop(streams);
    }

    async fn a_backend_that_breaks_one_request_is_not_called_away(version) {
        let backend = Backend::builder()
            .on("/api/v1/post", |_| Reply::raw(""))
            .on("/api/v1/get", |_| Reply::raw(""))
            .start()
            .await;
        let relay = relay_before(backend.address(), "retry_for = \"1s\"").await;
        let client = Client::https(&relay, version);
        for _ in 0..3 {
            assert_eq!(client.call("POST", "/api/v1/post").body("x").send().await.status, 502);
            assert_eq!(client.get("/api/v1/get").await.status, 502);
            assert_eq!(client.get("/api/v1/x").await.status, 200);
        }
        let logs = relay.logs();
        let lines = logs.iter().filter(|line| line.contains("does not answer")).count();
        assert!(lines <= 1, "not one a request: {}", logs.join("\n"));
    }
}

#[tokio::test]
async fn a_backend_that_breaks_everything_is_called_away_once() {
    let backend = Backend::builder().on("/api/v1/stream", |_| Reply::raw("")).start().await;
    let relay = relay_before(backend.address(), "").await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    let _streams: Vec<_> = (0..5).map(|_| EventSource::open(&client, STREAM, &[])).collect();
    relay.log_with(&["does not answer"]).await;
    assert_eq!(client.get("/api/v1/x").await.text(), "ok");
    relay.log_with(&["answers again"]).await;
    assert_eq!(relay.logs().iter().filter(|line| line.contains("does not answer")).count(), 1);
}

/// Chance that can be had again: xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A backend that breaks each connection at a point of chance, and counts how often it saw which message.
struct Breaker {
    address: SocketAddr,
    seen: Arc<Mutex<HashMap<String, usize>>>,
    breaks: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// Broken after so many bytes of it were read.
    BrokenAfter(usize),
    /// Broken after it was read whole, and so many bytes of the response were written.
    BrokenInResponse(usize),
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl Breaker {
    async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, breaks) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<AtomicUsize>::default());
        let chance = Arc::new(Mutex::new(Chance(seed)));
        let accepting = tokio::spawn({
            let (seen, breaks) = (Arc::clone(&seen), Arc::clone(&breaks));
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (seen, breaks, chance) =
                        (Arc::clone(&seen), Arc::clone(&breaks), Arc::clone(&chance));
                    connections.spawn(async move {
                        // An error: the relay closed first.
                        if let Ok(true) = serve(stream, &seen, &chance).await {
                            breaks.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        Self { address, seen, breaks, accepting: accepting.abort_handle() }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one connection until it is broken: true then.
async fn serve(
    mut stream: TcpStream,
    seen: &Mutex<HashMap<String, usize>>,
    chance: &Mutex<Chance>,
) -> std::io::Result<bool> {
    loop {
        let (fate, is_reset, before) = {
            let mut chance = chance.lock().unwrap();
            let fate = match chance.below(4) {
                0 | 1 => Fate::Answered,
                2 => Fate::BrokenAfter(chance.below(600)),
                _ => Fate::BrokenInResponse(chance.below(ANSWER.len())),
            };
            (fate, chance.below(2) == 0, Duration::from_micros(chance.below(2000) as u64))
        };
        let mut request = Vec::new();
        while !is_whole(&request) {
            let room = match fate {
                Fate::BrokenAfter(bytes) => bytes - request.len(),
                Fate::Answered | Fate::BrokenInResponse(_) => 4096,
            };
            if room == 0 {
                break;
            }
            let read = (&mut stream).take(room as u64).read_buf(&mut request).await?;
            if read == 0 {
                return Ok(false);
            }
        }
        // The message's name is in the head's first line: a request that was cut before it counts as its start.
        if let Some(name) = name(&request) {
            *seen.lock().unwrap().entry(name).or_default() += 1;
        }
        let written = match fate {
            Fate::Answered => ANSWER,
            Fate::BrokenInResponse(bytes) => &ANSWER[..bytes],
            Fate::BrokenAfter(_) => &[],
        };
        stream.write_all(written).await?;
        if !matches!(fate, Fate::Answered) {
            tokio::time::sleep(before).await;
            if is_reset {
                stream.set_zero_linger()?;
            }
            return Ok(true);
        }
        // Now and then a kept connection is closed just when the next request may be under way.
        if is_reset && before.as_micros() < 700 {
            tokio::time::sleep(before).await;
            return Ok(true);
        }
    }
}

/// Whether head and body are there; each body ends in a full stop.
fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n") && request.ends_with(b".")
}

fn name(request: &[u8]) -> Option<String> {
    let line = request.strip_prefix(b"POST /message/")?;
    let end = line.iter().position(|byte| *byte == b' ')?;
    Some(String::from_utf8_lossy(&line[..end]).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_reached_the_backend_is_never_sent_twice() {
    let resets = if crate::harness::is_long() { 1000 } else { 200 };
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let breaker = Breaker::start(seed).await;
    let relay = relay_before(breaker.address, "").await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    let sent = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (client, sent, answered) = (Arc::clone(&client), Arc::clone(&sent), Arc::clone(&answered));
        let breaks = Arc::clone(&breaker.breaks);
        workers.spawn(async move {
            while breaks.load(Ordering::Relaxed) < resets {
                let name = sent.fetch_add(1, Ordering::Relaxed).to_string();
                let call = client.call("POST", &format!("/message/{name}")).body("a message of some length.");
                // A response that was cut in its body breaks off here as well.
                if let Ok(response) = call.try_open().await
                    && response.status() == 200
                {
                    answered.lock().unwrap().push(name);
                }
            }
        });
    }
    workers.join_all().await;
    let (seen, answered) = (breaker.seen.lock().unwrap().clone(), answered.lock().unwrap().clone());
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    let (breaks, sent) = (breaker.breaks.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
    println!("{sent} sent, {breaks} breaks, {} reached the backend, {} answered", seen.len(), answered.len());
    assert!(twice.is_empty(), "seed {seed}: {twice:?}");
    assert!(answered.iter().all(|name| seen.get(name) == Some(&1)), "seed {seed}");
    assert!(answered.len() * 4 > sent, "seed {seed}: hardly any came through: {} of {sent}", answered.len());
}
