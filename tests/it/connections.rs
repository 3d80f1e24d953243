//! How long connections live on both sides, who is made to leave, and what is sent again on another.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    time::sleep,
};

use crate::harness::{
    Backend, Client, Frames, Raw, Relay, Reply, Version,
    frames::{DATA, GOAWAY, INITIAL_WINDOW_SIZE, RST_STREAM, WINDOW},
    on_h1_and_h2, raw,
    relay::RelayBuilder,
    within,
};

const SECOND: Duration = Duration::from_secs(1);
/// What a client takes at once that reads slowly.
const SIP: u32 = 64 * 1024;
/// How long a client takes nothing: less than it may, and longer than an idle connection takes to close.
const PAUSE: Duration = Duration::from_secs(8);
const SWITCH: &str =
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_websocket_outlives_the_limits_of_requests() {
    let backend = Backend::builder().on("/ws", |_| Reply::tunnel("websocket")).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nrequest_head = \"1s\"\nidle_connection = \"1s\"\nidle_body = \"1s\"")
        .start()
        .await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(SWITCH).await;
    assert_eq!(raw::status(&raw.read_head().await), 101);
    for message in ["at once", "after two seconds", "after four"] {
        raw.send(message).await;
        assert_eq!(raw.read(message.len()).await, message.as_bytes());
        sleep(2 * SECOND).await;
    }
    assert_eq!(backend.open(), 1);
}

#[tokio::test]
async fn a_websocket_that_only_the_server_talks_on_outlives_them_too() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.local_addr().unwrap())
        .toml("[limits]\nrequest_head = \"1s\"\nidle_connection = \"1s\"\nidle_body = \"1s\"")
        .start()
        .await;
    let mut raw = Raw::tls(&relay).await;
    raw.send(SWITCH).await;
    // The first connection may be the relay's look at its start, on which nothing comes; then the request's head,
    // in whatever pieces.
    let mut backend = loop {
        let (mut stream, _) = within("the relay to connect", backend.accept()).await.unwrap();
        if stream.read(&mut [0; 4096]).await.unwrap() > 0 {
            break stream;
        }
    };
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    backend.write_all(switched.as_bytes()).await.unwrap();
    assert_eq!(raw::status(&raw.read_head().await), 101);
    for message in ["at once", "after two seconds", "after four"] {
        backend.write_all(message.as_bytes()).await.unwrap();
        assert_eq!(raw.read(message.len()).await, message.as_bytes());
        sleep(2 * SECOND).await;
    }
}

#[tokio::test]
async fn a1_a_client_whose_windows_stay_shut_does_not_keep_the_backend_from_others() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(100_000)).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 8\nqueue_for = \"10s\"\n[limits]\nidle_body = \"1s\"")
        .start()
        .await;
    let mut greedy = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    for number in 0..60 {
        greedy.get(2 * number + 1, "/large").await;
    }
    backend.wait_open(8).await;
    let began = Instant::now();
    let others = Client::https(&relay, Version::Http2);
    let ((), answer) = tokio::join!(greedy.until_closed(), others.get("/x"));
    assert_eq!(answer.text(), "ok");
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a1_a_response_that_is_left_unread_is_given_up_and_what_else_the_connection_carries_goes_on() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(LARGE)).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 2\nqueue_for = \"10s\"\n[limits]\nidle_body = \"1s\"")
        .start()
        .await;
    // Enough for small responses, and for the beginning of large ones.
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 1000)]).await;
    frames.get(1, "/large").await;
    let mut given_up = false;
    for number in 1..=30 {
        let stream = 2 * number + 1;
        frames.get(stream, "/x").await;
        within("the small response", async {
            loop {
                let frame = frames.next().await.expect("the connection goes on");
                assert_ne!(frame.kind, GOAWAY);
                given_up |= (frame.kind, frame.stream) == (RST_STREAM, 1);
                if frame.stream == stream && frame.ends() {
                    return;
                }
            }
        })
        .await;
        sleep(SECOND / 10).await;
    }
    assert!(given_up, "its stream is not reset");
    let line = relay.access("/large").await;
    assert!(line.contains("end=aborted"), "{line}");
    // And nothing of it is kept from the others.
    within("its connection to be closed", async {
        while backend.open() > 1 {
            sleep(SECOND / 100).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_frames_but_no_requests_ends_by_goaway_when_it_is_idle() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nrequest_head = \"1s\"\nidle_connection = \"3s\"")
        .start()
        .await;
    let mut frames = Frames::open(&relay, &[]).await;
    frames.get(1, "/x").await;
    within("the response", async { while !frames.next().await.expect("a response").ends() {} }).await;
    let idle = Instant::now();
    let farewell = within("GOAWAY", async {
        loop {
            assert!(frames.ping().await && frames.window(0, 1).await, "cut after {:?}", idle.elapsed());
            let pause = sleep(SECOND / 5);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    frame = frames.next() => {
                        let frame = frame.unwrap_or_else(|| panic!("cut after {:?}", idle.elapsed()));
                        if frame.kind == GOAWAY {
                            return frame;
                        }
                    }
                    () = &mut pause => break,
                }
            }
        }
    })
    .await;
    let after = idle.elapsed();
    assert!(after > 2 * SECOND && after < 6 * SECOND, "{after:?}");
    assert_eq!(farewell.payload[4..8], [0; 4], "nobody did anything wrong");
    frames.until_closed().await;
}

/// The body of which a client takes the last part late: several times what the kernel takes off the relay's hands.
const LARGE: u64 = 16 * 1024 * 1024;

/// A relay that has no patience with idle connections, before a backend that has [`LARGE`] zeros.
async fn impatient(relay: RelayBuilder) -> (Backend, Relay) {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(LARGE)).start().await;
    let relay = relay.backend(backend.address()).toml("[limits]\nidle_connection = \"1s\"").start().await;
    (backend, relay)
}

/// Whether the relay has read the whole response, and holds what the client has not taken.
fn holds_the_rest(relay: &Relay) -> bool {
    relay.logs().iter().any(|line| line.contains(" access ") && line.contains("path=/large"))
}

#[tokio::test]
async fn the_rest_of_a_response_is_no_idle_connection_over_h1() {
    // As large as a head may be is what the relay holds back of a response: enough here for the kernel, which
    // takes hundreds of kilobytes at once, not to take it all.
    let (_backend, relay) = impatient(Relay::builder().toml("[limits]\nhead_size = \"1MiB\"")).await;
    let socket = TcpSocket::new_v4().unwrap();
    // Small: what the kernel keeps for the client is out of the relay's hands.
    socket.set_recv_buffer_size(SIP / 4).unwrap();
    let mut raw = Raw::over(socket.connect(relay.http()).await.unwrap());
    raw.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    raw.read_head().await;
    let mut left = LARGE;
    while !holds_the_rest(&relay) {
        left -= raw.read(SIP as usize).await.len() as u64;
        sleep(SECOND / 200).await;
    }
    assert!(left > 0, "the client was too fast");
    sleep(PAUSE).await;
    assert_eq!(raw.read_to_end().await.len() as u64, left);
}

#[tokio::test]
async fn the_rest_of_a_response_is_no_idle_connection_over_h2() {
    let (_backend, relay) = impatient(Relay::builder().self_signed()).await;
    let mut frames = Frames::open(&relay, &[]).await;
    frames.get(1, "/large").await;
    let (mut taken, mut allowed) = (0, WINDOW);
    while !holds_the_rest(&relay) {
        while taken < allowed {
            taken += data(&mut frames).await.0;
        }
        allowed += SIP;
        assert!(frames.window(0, SIP).await && frames.window(1, SIP).await);
        sleep(SECOND / 200).await;
    }
    assert!(u64::from(allowed) < LARGE, "the client was too fast");
    sleep(PAUSE).await;
    assert!(frames.window(0, 1 << 20).await && frames.window(1, 1 << 20).await, "the relay has closed");
    loop {
        let (length, ends) = data(&mut frames).await;
        taken += length;
        if ends {
            break;
        }
    }
    assert_eq!(u64::from(taken), LARGE);
}

/// The length of the next DATA frame, and whether it is the last.
async fn data(frames: &mut Frames) -> (u32, bool) {
    within("data", async {
        loop {
            let frame = frames.next().await.expect("the response goes on");
            if frame.kind == DATA {
                return (u32::try_from(frame.payload.len()).unwrap(), frame.ends());
            }
        }
    })
    .await
}

on_h1_and_h2! {
    async fn a_request_that_the_backend_closes_on_is_repeated_once_if_that_is_harmless(version) {
        let backend = Backend::builder().on("/x", |_| Reply::raw("")).start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        for (method, times) in [("GET", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)] {
            let before = backend.requests().len();
            let asked = Instant::now();
            assert_eq!(client.call(method, "/x").send().await.status, 502, "{method}");
            assert!(asked.elapsed() < 2 * SECOND, "{method}: {:?}", asked.elapsed());
            assert_eq!(backend.requests().len() - before, times, "{method}");
        }
        // Nor is one that has a body, on a connection that was used before.
        assert_eq!(client.get("/y").await.text(), "ok");
        assert_eq!(client.call("PUT", "/x").body("body").send().await.status, 502);
        assert_eq!(backend.requests().iter().filter(|request| request.method == "PUT").count(), 1);
    }
}

/// A backend that refuses an upload when it sees its head, and closes.
async fn refuses_early() -> Backend {
    let early = |_: &_| Reply::status("413 CONTENT TOO LARGE").early().then_close();
    Backend::builder().on("/x", early).start().await
}

const UPLOAD: usize = 20 * 1024 * 1024;

#[tokio::test]
async fn an_early_answer_to_an_upload_is_never_lost_over_h1() {
    let backend = refuses_early().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    for round in 0..20 {
        let mut raw = Raw::tls(&relay).await;
        raw.send(format!("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {UPLOAD}\r\n\r\n")).await;
        // Many clients look for an answer only when all is sent; it takes them less than the relay waits.
        let mut sent = 0;
        while sent < UPLOAD && raw.try_send(&[0; 64 * 1024]).await {
            sent += 64 * 1024;
        }
        assert_eq!(sent, UPLOAD, "{round}");
        assert_eq!(raw::status(&raw.read_head().await), 413, "{round}");
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload_is_never_lost_over_h2() {
    let backend = refuses_early().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let client = Client::https(&relay, Version::Http2);
    for round in 0..20 {
        let answer = client.call("POST", "/x").body(vec![0; UPLOAD]).open().await;
        assert_eq!(answer.status(), 413, "{round}");
    }
}
