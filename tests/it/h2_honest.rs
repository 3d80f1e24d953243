//! Clients that do much and nothing wrong: no budget of ours (attacks.md A1, A2) is ever in their way.

use std::{
    io::ErrorKind,
    process::{Command, Output},
    time::Duration,
};

use crate::{
    h2_cases::{headers, request},
    harness::{
        Backend, Client, Frames, Relay, Reply, Version,
        client::{count, next_chunk},
        frames::{
            DATA, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY_UPDATE, RST_STREAM, frame,
        },
        is_long, within,
    },
};

const MIB: u64 = 1 << 20;

/// How much is done: the debug binary takes minutes for what PARLEY_LONG asks for.
fn much(usual: u64, long: u64) -> u64 {
    if is_long() { long } else { usual }
}

/// Runs a program of Debian's nghttp2-client; `None` where there is none, and no CI, which must have it.
async fn run(program: &str, args: Vec<String>) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "{program} is missing: run tests/run");
            println!("skipped: {program} is missing; run tests/run");
            None
        }
        Err(error) => panic!("{program}: {error}"),
        Ok(Output { stdout, stderr, status }) => {
            let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
            assert!(status.success(), "{program}: {status}\n{text}");
            Some(text)
        }
    }
}

async fn relay(backend: &Backend) -> Relay {
    Relay::builder().self_signed().backend(backend.address()).toml("[log]\nlevel = \"debug\"").start().await
}

/// Fails when the relay ended a connection for its frames.
#[track_caller]
fn assert_none_ended(relay: &Relay) {
    let ended: Vec<_> = relay.logs().into_iter().filter(|line| line.contains("more frames than")).collect();
    assert!(ended.is_empty(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_with_64_streams_gets_every_answer_of_one_connection() {
    let backend = Backend::start().await;
    let relay = relay(&backend).await;
    let requests = much(4000, 20_000);
    let url = format!("https://{}/x", relay.authority());
    let args = [&format!("-n{requests}"), "-c1", "-m64", "-t1", &url].map(str::to_owned);
    let Some(text) = run("h2load", args.into()).await else { return };
    let all =
        format!("{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed");
    assert!(text.contains(&all), "{text}");
    assert_none_ended(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_gets_a_page_and_what_belongs_to_it() {
    let backend = Backend::builder().on("/x", |_| Reply::zeros(100_000)).start().await;
    let relay = relay(&backend).await;
    // Nothing but nghttp's own windows: it gives back what it took, with a PRIORITY for each of its groups first.
    let url = format!("https://{}/x", relay.authority());
    let args = ["-nv", "-m50", "--no-verify-peer", &url].map(str::to_owned);
    let Some(text) = run("nghttp", args.into()).await else { return };
    assert_eq!(text.matches(":status: 200").count(), 50, "{text}");
    assert!(!text.contains("recv GOAWAY frame"), "{text}");
    assert_none_ended(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_measures_the_way_by_pings_downloads_and_uploads() {
    let length = much(16 * MIB, 64 * MIB);
    let backend = Backend::builder().on("/down", move |_| Reply::zeros(length)).start().await;
    let relay = relay(&backend).await;
    // Its windows adapt: there is a PING for each round trip that brings data.
    let client = Client::https(&relay, Version::Http2);
    let mut body = client.call("GET", "/down").open().await.into_body();
    assert_eq!(count(&mut body).await.expect("the whole body"), length);
    let body = vec![7; usize::try_from(length).unwrap()];
    assert_eq!(client.call("POST", "/up").body(body).send().await.status, 200);
    assert_eq!(backend.last().length, length);
    assert_none_ended(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_with_tiny_windows_are_whole() {
    for (window, length) in [(1024, much(4 * MIB, 64 * MIB)), (16, 8 << 10)] {
        download_with(window, length).await;
    }
}

async fn download_with(window: u32, length: u64) {
    let backend = Backend::builder().on("/down", move |_| Reply::zeros(length)).start().await;
    let relay = relay(&backend).await;
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, window)]).await;
    frames.get(1, "/down").await;
    let mut taken = 0;
    tokio::time::timeout(Duration::from_secs(300), async {
        loop {
            let frame = frames.next().await.expect("the connection goes on");
            assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "after {taken} bytes: {frame:?}");
            if frame.kind == DATA && !frame.payload.is_empty() {
                let more = u32::try_from(frame.payload.len()).unwrap();
                taken += u64::from(more);
                assert!(frames.window(0, more).await && frames.window(1, more).await, "after {taken} bytes");
            }
            if frame.ends() {
                break;
            }
        }
    })
    .await
    .expect("a download in time");
    assert_eq!(taken, length);
    assert_none_ended(&relay);
}

/// The h2 crate's client gives back each piece by itself once its window is used up, and so gets ever smaller ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_taken_slowly_is_whole() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = relay(&backend).await;
    let client = Client::https(&relay, Version::Http2);
    let mut body = client.call("GET", "/events").open().await.into_body();
    let feed = backend.feed().await;
    let sending =
        tokio::spawn(async move { while feed.offer(format!("data: {}\n\n", "x".repeat(4000))).await {} });
    // Each buffer on the way is full.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut pieces = Vec::new();
    while pieces.len() < 6000 {
        tokio::time::sleep(Duration::from_micros(200)).await;
        pieces.push(next_chunk(&mut body).await.expect("the stream goes on").len());
    }
    pieces.sort_unstable();
    let median = pieces[pieces.len() / 2];
    println!("pieces of {} bytes, the median {median}", pieces[0]);
    // Some 1,400; each piece given back at once, 200.
    assert!(median > 600, "pieces of {median} bytes: ever smaller ones");
    drop(body);
    sending.await.unwrap();
    assert_none_ended(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_frames_of_100_bytes_is_whole() {
    let backend = late_reader(Duration::ZERO).await;
    let relay = relay(&backend).await;
    upload_in_frames_of_100(&relay, &backend, much(2 * MIB, 64 * MIB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_frames_of_100_bytes_is_whole_where_its_client_has_many_connections_and_the_backend_is_late()
 {
    let backend = late_reader(Duration::from_secs(1)).await;
    let relay = relay(&backend).await;
    let _others = many(&relay).await;
    // More than all buffers on the way have room for.
    upload_in_frames_of_100(&relay, &backend, 16 * MIB).await;
}

/// A backend that reads what is sent `/up` only after a pause.
async fn late_reader(pause: Duration) -> Backend {
    Backend::builder().on("/up", move |_| Reply::ok("").reads_after(pause)).start().await
}

/// So many connections that each further one of this client has the least there is.
async fn many(relay: &Relay) -> Vec<Frames> {
    let mut many = Vec::new();
    for _ in 0..128 {
        let mut frames = Frames::open(relay, &[]).await;
        frames.settled().await;
        many.push(frames);
    }
    many
}

async fn upload_in_frames_of_100(relay: &Relay, backend: &Backend, length: u64) {
    let length = length / 100 * 100;
    let mut frames = Frames::open(relay, &[]).await;
    let mut sent = 0;
    let (mut connection, mut stream) = frames.settled().await;
    assert!(frames.write(&headers(0, 1, &request("POST", "/up"))).await);
    let small = frame(DATA, 0, 1, &[7; 100]);
    tokio::time::timeout(Duration::from_secs(300), async {
        while sent < length {
            let pieces = connection.min(stream).min(length - sent).min(16_000) / 100;
            if pieces > 0 {
                assert!(frames.write(&small.repeat(usize::try_from(pieces).unwrap())).await, "after {sent}");
                (sent, connection, stream) =
                    (sent + 100 * pieces, connection - 100 * pieces, stream - 100 * pieces);
                continue;
            }
            let frame = frames.next().await.expect("the connection goes on");
            assert!(frame.kind != GOAWAY && frame.kind != RST_STREAM, "after {sent} bytes: {frame:?}");
            if let Some(more) = frame.window() {
                *(if frame.stream == 0 { &mut connection } else { &mut stream }) += u64::from(more);
            }
        }
        assert!(frames.send(DATA, END_STREAM, 1, &[]).await);
        while !frames.next().await.expect("an answer").ends() {}
    })
    .await
    .expect("an upload in time");
    assert_eq!(backend.last().length, length);
    assert_none_ended(relay);
}

/// People behind one address have many connections: downloads that one of them leaves unread are no reason for the chat
/// beside them to stand still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_beside_downloads_that_are_left_unread() {
    let backend = Backend::builder()
        .on("/large", |_| Reply::zeros(MIB))
        .on("/events", |_| Reply::events())
        .start()
        .await;
    let relay = relay(&backend).await;
    let _others = many(&relay).await;
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 1000)]).await;
    frames.settled().await;
    // Where there are two, the next one is begun.
    for stream in [1, 3, 5] {
        frames.get(stream, "/large").await;
        assert_eq!(data_of(&mut frames, stream).await.len(), 1000);
    }
    for stream in 3..23 {
        frames.get(2 * stream + 1, "/large").await;
    }
    frames.get(101, "/events").await;
    let feed = backend.feed().await;
    for event in 0..10 {
        let event = format!("data: {event}\n\n");
        feed.send(event.clone()).await;
        assert_eq!(data_of(&mut frames, 101).await, event.as_bytes());
    }
}

/// What the next DATA frame of a stream brings.
async fn data_of(frames: &mut Frames, stream: u32) -> Vec<u8> {
    within("DATA", async {
        loop {
            let frame = frames.next().await.expect("the connection goes on");
            if frame.kind == DATA && frame.stream == stream {
                return frame.payload;
            }
        }
    })
    .await
}

/// As Chromium does where a page is left again and again: all that is open is taken back at once.
#[tokio::test]
async fn a_browser_that_leaves_page_after_page_keeps_its_connection() {
    let backend = Backend::builder().on("/pending", |_| Reply::silence()).start().await;
    let relay = relay(&backend).await;
    let mut frames = Frames::open(&relay, &[]).await;
    for page in 0..8_u32 {
        for number in 0..32 {
            let stream = 2 * (page * 32 + number) + 1;
            let update = [&stream.to_be_bytes()[..], b"u=3, i"].concat();
            let asked = [
                frame(PRIORITY_UPDATE, 0, 0, &update),
                headers(END_STREAM, stream, &request("GET", "/pending")),
            ];
            assert!(frames.write(&asked.concat()).await);
        }
        let taken_back: Vec<u8> = (0..32)
            .flat_map(|number| frame(RST_STREAM, 0, 2 * (page * 32 + number) + 1, &[0, 0, 0, 8]))
            .collect();
        assert!(frames.write(&taken_back).await && frames.ping().await);
        within("PING", async {
            loop {
                let frame = frames.next().await.expect("the connection goes on");
                assert_ne!(frame.kind, GOAWAY, "page {page}: {frame:?}");
                if frame.kind == PING {
                    break;
                }
            }
        })
        .await;
    }
    frames.get(9001, "/x").await;
    within("an answer", async {
        loop {
            let frame = frames.next().await.expect("the connection goes on");
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.kind == HEADERS && frame.stream == 9001 {
                return assert_eq!(frame.status(), 200);
            }
        }
    })
    .await;
    assert_none_ended(&relay);
}
