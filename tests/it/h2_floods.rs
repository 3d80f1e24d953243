//! Floods of frames that cost the relay more than the client (attacks.md A1, A2): each ends in GOAWAY within its
//! budget, memory stays bounded, and another client notices nothing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, JoinSet};

use crate::{
    h2_cases::{
        ENHANCE_YOUR_CALM, LARGEST, PENDING, SERVED, cancel, depends_on, headers, open, pending, request,
        window,
    },
    harness::{
        Backend, Client, Frames, Relay, Reply, Version,
        frames::{
            ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PADDED,
            PING, PRIORITY, PRIORITY_UPDATE, SETTINGS, WITH_PRIORITY, block, frame, settings,
        },
        within,
    },
};

/// attacks.md A1.
const MEMORY: u64 = 64 << 20;
/// What the connection may take until it ends, frames on their way included: a flood would go on for ever.
const FRAMES: usize = 100_000;
const SECOND: Duration = Duration::from_secs(1);

/// Is answered with more than anybody takes here.
const DOWNLOAD: &str = "/download";

/// A flood: what comes before it, the frames of its `n`-th piece, and how many they are.
struct Flood {
    name: &'static str,
    start: Vec<u8>,
    piece: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    frames: usize,
}

/// The same frame again and again.
fn same(name: &'static str, start: Vec<u8>, one: Vec<u8>) -> Flood {
    let frames = (16_000 / one.len()).clamp(1, 200);
    let piece = one.repeat(frames);
    Flood { name, start, piece: Box::new(move |_| piece.clone()), frames }
}

/// Streams, one after the other: what each of them does.
fn streams(name: &'static str, frames: usize, one: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Flood {
    const AT_ONCE: u32 = 20;
    let piece = move |number| {
        (AT_ONCE * number..AT_ONCE * (number + 1)).flat_map(|stream| one(2 * stream + 1001)).collect()
    };
    Flood { name, start: Vec::new(), piece: Box::new(piece), frames: frames * AT_ONCE as usize }
}

/// attacks.md A2.
fn control_frames() -> Vec<Flood> {
    let many: Vec<_> = (0..2700).map(|number| (INITIAL_WINDOW_SIZE, 65_535 + number)).collect();
    vec![
        same("SETTINGS", Vec::new(), frame(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 65_535)]))),
        same("empty SETTINGS", Vec::new(), frame(SETTINGS, 0, 0, &[])),
        same("SETTINGS of 2,700 changes", pending(1), frame(SETTINGS, 0, 0, &settings(&many))),
        same("PING", Vec::new(), frame(PING, 0, 0, b"are you?")),
        same("PING that we did not ask for", Vec::new(), frame(PING, ACK, 0, b"i am too")),
        same("PRIORITY", Vec::new(), frame(PRIORITY, 0, 77, &depends_on(0))),
        same("PRIORITY_UPDATE", Vec::new(), frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1")),
        same("WINDOW_UPDATE of the connection", Vec::new(), window(0, 1)),
        same("WINDOW_UPDATE of a stream", pending(1), window(1, 1)),
        {
            let shut = frame(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 0)]));
            let download = headers(END_STREAM, 1, &request("GET", DOWNLOAD));
            same("WINDOW_UPDATE that is waited for", [shut, download].concat(), window(1, 1))
        },
        same("WINDOW_UPDATE of a closed stream", [pending(1), cancel(1)].concat(), window(1, 1)),
        same("RST_STREAM of a closed stream", pending(1), cancel(1)),
        same("empty unknown frames", Vec::new(), frame(0xbe, 0, 0, &[])),
        same("large unknown frames", Vec::new(), frame(0xbe, 0, 1, &[0; LARGEST])),
    ]
}

/// attacks.md A1, all but the zero window.
fn streams_and_blocks() -> Vec<Flood> {
    let half = block(&request("GET", PENDING))[..20].to_vec();
    // One field of 4,000 bytes that is remembered (RFC 7541 6.2.1), and a block of nothing but its index.
    let remembered = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    let remembered = [block(&request("GET", PENDING)), remembered].concat();
    vec![
        streams("rapid reset", 2, |stream| [pending(stream), cancel(stream)].concat()),
        streams("rapid reset of uploads", 2, |stream| [open(stream), cancel(stream)].concat()),
        streams("made you reset: a window beyond 2^31", 2, |stream| {
            [pending(stream), window(stream, (1 << 31) - 1)].concat()
        }),
        streams("made you reset: a body that is longer than it says", 2, |stream| {
            let head = [&request("POST", PENDING)[..], &[("content-length", "1")]].concat();
            [headers(0, stream, &head), frame(DATA, 0, stream, b"xx")].concat()
        }),
        streams("made you reset: a stream that depends on itself", 2, |stream| {
            [pending(stream), frame(PRIORITY, 0, stream, &depends_on(stream))].concat()
        }),
        streams("malformed requests", 1, |stream| headers(END_STREAM, stream, &[(":method", "GET")])),
        streams("streams that depend on themselves", 1, |stream| {
            let block = [&depends_on(stream)[..], &block(&request("GET", PENDING))].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, stream, &block)
        }),
        streams("more streams than there may be", 1, pending),
        same("empty CONTINUATION", frame(HEADERS, 0, 1, &half), frame(CONTINUATION, 0, 1, &[])),
        same(
            "CONTINUATION of a name without end",
            frame(HEADERS, 0, 1, &[0, 0x7f, 0xff, 0xff, 0xff, 0x0f]),
            frame(CONTINUATION, 0, 1, &[b'x'; LARGEST]),
        ),
        same("empty DATA", open(1), frame(DATA, 0, 1, &[])),
        same("DATA of padding", open(1), frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
        same("an HPACK bomb", frame(HEADERS, END_HEADERS | END_STREAM, 1, &remembered), {
            let bomb = [block(&request("GET", PENDING)), vec![0xbe; 16_000]].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &bomb)
        }),
    ]
}

/// What came of a flood.
struct End {
    /// How many of its frames were written before the end.
    sent: usize,
    /// The code of its GOAWAY, if it came.
    code: Option<u32>,
}

impl Flood {
    /// Runs it on a connection of its own until the relay ends that.
    async fn run(&self, relay: &Relay) -> End {
        let mut frames = Frames::open(relay, &[]).await;
        // Thousands of connections would leave no port to come from.
        frames.reset_when_dropped();
        let mut end = End { sent: 0, code: None };
        let mut open = frames.write(&self.start).await;
        let mut number = 0;
        while open && end.code.is_none() && end.sent < FRAMES {
            open = frames.write(&(self.piece)(number)).await;
            number += 1;
            end.sent += self.frames;
            // What is there already: a client that reads.
            while let Ok(frame) = tokio::time::timeout(Duration::ZERO, frames.read()).await {
                let Some(frame) = frame else { return end };
                if frame.kind == GOAWAY {
                    end.code = Some(frame.error_code());
                }
            }
        }
        assert!(end.sent < FRAMES, "{}: the relay takes {FRAMES} frames", self.name);
        within("the relay to close", async {
            while let Some(frame) = frames.read().await {
                if frame.kind == GOAWAY {
                    end.code = Some(frame.error_code());
                }
            }
        })
        .await;
        end
    }
}

/// A client that asks again and again, and expects every answer.
struct Bystander {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    async fn start(relay: &Relay) -> Self {
        let client = Client::https(relay, Version::Http2);
        assert_eq!(client.get(SERVED).await.status, 200);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asking = tokio::spawn(async move {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(client.get(SERVED).await.text(), "ok");
                times.push(began.elapsed());
                tokio::time::sleep(SECOND / 200).await;
            }
            times
        });
        Self { stop, asking }
    }

    /// How long its answers took, from the quickest to the slowest.
    async fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.asking.await.expect("the bystander got every answer");
        times.sort();
        times
    }
}

/// How the floods are run.
struct Pace {
    /// On so many connections at once.
    attackers: usize,
    /// Again and again for so long.
    lasting: Duration,
    /// What the bystander's slowest answers may take, but for one in a hundred.
    p99: Duration,
}

/// Each once, and a bystander that waits for the debug binary and for other tests; or under PARLEY_LONG as a flood is.
fn pace() -> Pace {
    if crate::harness::is_long() {
        Pace { attackers: 2, lasting: 5 * SECOND, p99: SECOND / 10 }
    } else {
        Pace { attackers: 1, lasting: Duration::ZERO, p99: 5 * SECOND }
    }
}

async fn each_ends_by_goaway(floods: Vec<Flood>, Pace { attackers, lasting, p99 }: Pace) {
    // What takes long is run against what is given away, where there is one.
    let relay = Relay::builder().self_signed();
    let relay = if lasting.is_zero() { relay } else { relay.static_binary() };
    let backend = Backend::builder()
        .on(PENDING, |_| Reply::silence())
        .on(DOWNLOAD, |_| Reply::zeros(1 << 30))
        .start()
        .await;
    let relay = Arc::new(relay.backend(backend.address()).start().await);
    let before = relay.rss();
    for flood in floods.into_iter().map(Arc::new) {
        let bystander = Bystander::start(&relay).await;
        let began = Instant::now();
        let mut attacks = JoinSet::new();
        for _ in 0..attackers {
            let (relay, flood) = (Arc::clone(&relay), Arc::clone(&flood));
            attacks.spawn(async move {
                let (mut frames, mut connections) = (0, 0);
                while connections == 0 || began.elapsed() < lasting {
                    let end = flood.run(&relay).await;
                    assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{}", flood.name);
                    (frames, connections) = (frames + end.sent, connections + 1);
                }
                (frames, connections)
            });
        }
        let mut most = 0;
        let (mut frames, mut connections) = (0, 0);
        while !attacks.is_empty() {
            tokio::select! {
                Some(attack) = attacks.join_next() => {
                    let attack = attack.expect("every connection ends by GOAWAY");
                    (frames, connections) = (frames + attack.0, connections + attack.1);
                }
                () = tokio::time::sleep(SECOND / 100) => {}
            }
            most = most.max(relay.rss().saturating_sub(before));
        }
        let took = began.elapsed();
        let times = bystander.stop().await;
        let slow = times[(times.len() - 1) * 99 / 100];
        println!(
            "{}: {connections} connections, {frames} frames, {took:.1?}; {} KiB more; {} answers to others, p99 {slow:.1?}",
            flood.name,
            most >> 10,
            times.len(),
        );
        assert!(most <= MEMORY, "{}: {most} bytes more", flood.name);
        assert!(slow < p99, "{}: others wait {slow:?}", flood.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_floods_of_control_frames_end_by_goaway() {
    each_ends_by_goaway(control_frames(), pace()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_floods_of_streams_and_header_blocks_end_by_goaway() {
    each_ends_by_goaway(streams_and_blocks(), pace()).await;
}

#[tokio::test]
async fn a2_a_flood_of_a_client_that_reads_nothing_ends_as_soon() {
    let backend = Backend::builder().on("/large", |_| Reply::feed()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    assert!(frames.window(0, 1 << 30).await);
    frames.get(1, "/large").await;
    let feed = backend.feed().await;
    // Until all that is between the two is full.
    while tokio::time::timeout(SECOND / 2, feed.send(vec![0; 64 << 10])).await.is_ok() {}
    let began = Instant::now();
    let flood = frame(PRIORITY, 0, 77, &depends_on(0)).repeat(1000);
    within("the relay to close", async { while frames.write(&flood).await {} }).await;
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
    backend.wait_open(0).await;
}

/// What is held for clients that ask for all they may and take nothing: with shut windows, and with open ones and
/// an unread connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_what_clients_ask_for_and_do_not_take_costs_little_memory() {
    const CONNECTIONS: u32 = 8;
    let relay = Relay::builder()
        .self_signed()
        .file("site/large.bin", vec![7; 1 << 20])
        .toml("[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/site\"")
        .start()
        .await;
    let before = relay.rss();
    for window in [0, 1 << 30] {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, window)]).await;
            assert!(frames.window(0, 1 << 30).await);
            for stream in 0..64 {
                frames.get(2 * stream + 1, "/large.bin").await;
            }
            held.push(frames);
        }
        // The relay has seen all of them when it has answered one that came later.
        let mut last = Frames::open(&relay, &[]).await;
        last.get(1, "/none").await;
        within("an answer", async { while !last.next().await.expect("an answer").ends() {} }).await;
        tokio::time::sleep(SECOND).await;
        let grown = relay.rss().saturating_sub(before);
        let threads = fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap().count();
        println!("windows of {window}: {} KiB for {CONNECTIONS} connections, {threads} threads", grown >> 10);
        assert!(threads <= 64, "{threads} threads");
        assert!(grown <= MEMORY, "windows of {window}: {grown} bytes for {CONNECTIONS} connections");
    }
}

#[tokio::test]
async fn a2_a_flood_that_does_not_heed_goaway_is_cut_off() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let mut frames = Frames::open(&relay, &[]).await;
    let pings = frame(PING, 0, 0, b"are you?").repeat(1000);
    let mut sent = 0;
    within("the relay to close", async {
        while frames.write(&pings).await {
            sent += pings.len();
        }
    })
    .await;
    // What was on its way, for which the kernel has room.
    assert!(sent < 20 << 20, "{sent} bytes were taken");
}

/// The most that one address can make the relay hold, by downloads that it does not take, uploads that the backend does
/// not take, and event streams with large heads that wait for it: it has to fit a machine of 512 MB, with room for Sova.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_all_the_connections_of_one_client_fit_a_small_machine() {
    // With all that it may have, and with fewer than that.
    let (connections, most) = if crate::harness::is_long() { (255, 256 << 20) } else { (48, 96 << 20) };
    let away = |_: &_| Reply::status("503 SERVICE UNAVAILABLE");
    let backend = Backend::builder().on(PENDING, |_| Reply::silence()).on("/held", away).start().await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[[paths]]\nprefix = \"/pending\"\naction = \"proxy\"\n[[paths]]\nprefix = \"/held\"\naction = \"proxy\"")
        .backend(backend.address())
        .file("site/large.bin", vec![7; 1 << 20])
        .toml("[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/site\"\n[log]\nlevel = \"info\"")
        .toml("[limits]\nconnections_per_client = 256")
        .static_binary()
        .start()
        .await;
    let mut last = Frames::open(&relay, &[]).await;
    let before = relay.rss();
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
        assert!(frames.window(0, 1 << 30).await);
        let (mut window, each) = frames.settled().await;
        for stream in 0..4 {
            frames.write(&open(2 * stream + 1)).await;
            for _ in 0..window.min(each) / LARGEST as u64 {
                frames.write(&frame(DATA, 0, 2 * stream + 1, &[7; LARGEST])).await;
                window -= LARGEST as u64;
            }
        }
        let events = [&request("GET", "/held")[..], &[("accept", "text/event-stream")]].concat();
        for stream in 4..16 {
            // A field of 3,900 bytes, once remembered (RFC 7541 6.2.1) and then four times by its index.
            let large = [&[0x40, 1, b'x', 0x7f, 0xbd, 0x1d][..], &[b'y'; 3900]].concat();
            let large = if stream == 4 { large } else { vec![0xbe; 4] };
            let block = [block(&events), large].concat();
            frames.write(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &block)).await;
        }
        for stream in 16..64 {
            frames.get(2 * stream + 1, "/large.bin").await;
        }
        held.push(frames);
    }
    last.get(1, "/none").await;
    within("an answer", async { while !last.next().await.expect("an answer").ends() {} }).await;
    tokio::time::sleep(2 * SECOND).await;
    let grown = relay.rss().saturating_sub(before);
    println!("{} MiB for {connections} connections", grown >> 20);
    assert!(grown <= most, "{grown} bytes for {connections} connections");
}

#[tokio::test]
async fn a1_a_client_whose_windows_stay_shut_is_told_when_it_is_ended() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(100_000)).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nidle_body = \"1s\"")
        .start()
        .await;
    let mut frames = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    frames.get(1, "/large").await;
    let began = Instant::now();
    let mut told = false;
    within("the relay to close", async {
        while let Some(frame) = frames.next().await {
            told |= frame.kind == GOAWAY;
        }
    })
    .await;
    assert!(told, "closed without GOAWAY");
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    backend.wait_open(0).await;
}

#[tokio::test]
async fn l1_a_header_block_that_does_not_come_to_its_end_ends_the_connection() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nrequest_head = \"1s\"")
        .start()
        .await;
    let half = block(&request("GET", SERVED))[..20].to_vec();
    let mut silent = Frames::silent(&relay).await;
    let mut begun = Frames::open(&relay, &[]).await;
    assert!(begun.send(HEADERS, END_STREAM, 1, &half).await);
    let mut honest = Frames::open(&relay, &[]).await;
    let began = Instant::now();
    for frames in [&mut silent, &mut begun] {
        // Nothing is acknowledged: it would come after the preface, or within the block.
        within("the relay to close", async { while frames.read().await.is_some() {} }).await;
    }
    assert!(began.elapsed() > SECOND / 2 && began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    honest.get(1, SERVED).await;
    within("an answer", async { while !honest.next().await.expect("an answer").ends() {} }).await;
}
