//! Clients that ask all the time, and streams and uploads that go on meanwhile: none may see anything fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{Backend, Client, EventSource, Relay, Reply, Version};

/// A path that the backend answers with `ok`, one that it echoes, and one with its event stream.
const PATHS: [&str; 3] = ["/ok", "/echo", "/events"];

/// A backend that says on every stream, `every` so often, how often it has done so.
pub(crate) async fn ticking(every: Duration) -> (Arc<Backend>, Arc<AtomicUsize>) {
    let backend = Backend::builder()
        .on(PATHS[0], |_| Reply::ok("ok"))
        .on(PATHS[1], |_| Reply::echo())
        .on(PATHS[2], |_| Reply::events())
        .start()
        .await;
    let (backend, ticks) = (Arc::new(backend), Arc::new(AtomicUsize::new(0)));
    let (own, counted) = (Arc::clone(&backend), Arc::clone(&ticks));
    // Ends with the test's runtime.
    tokio::spawn(async move {
        let mut feeds = Vec::new();
        let mut tick = tokio::time::interval(every);
        loop {
            tokio::select! {
                Some(feed) = own.next_feed() => feeds.push(feed),
                _ = tick.tick() => {
                    let count = counted.fetch_add(1, Ordering::Relaxed);
                    let mut open = Vec::new();
                    for feed in feeds {
                        if feed.offer(format!("data: {count}\n\n")).await {
                            open.push(feed);
                        }
                    }
                    feeds = open;
                }
            }
        }
    });
    (backend, ticks)
}

/// Everything that is under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    began: Instant,
    workers: Vec<JoinHandle<()>>,
    uploads: Vec<JoinHandle<()>>,
    pub(crate) streams: Vec<EventSource>,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) streams: usize,
    pub(crate) uploads: usize,
    pub(crate) workers: usize,
    /// Between two requests of a worker.
    pub(crate) pause: Duration,
    /// Between two events of a stream.
    pub(crate) tick: Duration,
}

impl Amount {
    pub(crate) const SMALL: Self = Self {
        streams: 50,
        uploads: 4,
        workers: 8,
        pause: Duration::from_millis(20),
        tick: Duration::from_millis(100),
    };
    /// As in attacks.md, K4 and K5.
    pub(crate) const LARGE: Self = Self {
        streams: 500,
        uploads: 20,
        workers: 32,
        pause: Duration::from_millis(10),
        tick: Duration::from_secs(1),
    };
}

impl Load {
    /// Half over HTTP/1.1, half over HTTP/2; half of the workers on new connections each time.
    pub(crate) async fn start(relay: &Relay, amount: Amount) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicUsize::new(0));
        let client = |version| Arc::new(Client::https(relay, version));
        let version = |at: usize| if at.is_multiple_of(2) { Version::Http1 } else { Version::Http2 };
        // A browser has a connection for its streams; as many share one as the relay lets each, from this one address.
        let mut streams: Vec<EventSource> = Vec::new();
        for at in 0..amount.streams.div_ceil(24) {
            let shared = client(version(at));
            let many = 24.min(amount.streams - streams.len());
            streams.extend((0..many).map(|_| EventSource::open(&shared, PATHS[2], &[])));
        }
        for stream in &streams {
            stream.until("a stream to open", |story| !story.opened.is_empty()).await;
        }
        let uploads = (0..amount.uploads)
            .map(|at| tokio::spawn(upload(client(version(at)), Arc::clone(&stop))))
            .collect();
        let workers = (0..amount.workers)
            .map(|at| {
                let (stop, requests, client) =
                    (Arc::clone(&stop), Arc::clone(&requests), client(version(at)));
                let relay = (relay.https(), relay.tls_client(&["http/1.1"]));
                tokio::spawn(async move {
                    let mut kept = None;
                    while !stop.load(Ordering::Relaxed) {
                        // Over HTTP/1.1 the client connects anew each time; every fourth keeps its connection.
                        if at.is_multiple_of(4) {
                            kept = Some(ask_on_kept(kept.take(), &relay).await);
                        } else {
                            let answer = client.persistently(PATHS[0], &[]).await.expect("an answer");
                            assert_eq!(answer.status(), 200);
                            let mut body = answer.into_body();
                            let length = super::client::count(&mut body).await.expect("a whole answer");
                            assert_eq!(length, 2);
                        }
                        requests.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(amount.pause).await;
                    }
                })
            })
            .collect();
        Self { stop, requests, began: Instant::now(), workers, uploads, streams }
    }

    /// Waits until every stream has got an event that is said from now on.
    pub(crate) async fn all_streams_go_on(&self, ticks: &AtomicUsize) {
        let now = ticks.load(Ordering::Relaxed);
        for stream in &self.streams {
            stream
                .until("an event", |story| {
                    story.events.last().is_some_and(|last| last.parse::<usize>().unwrap() > now)
                })
                .await;
        }
    }

    /// How many requests were answered so far.
    pub(crate) fn answered(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests were answered.
    pub(crate) async fn goes_on(&self, count: usize) {
        let enough = self.answered() + count;
        super::within("requests to be answered", async {
            while self.answered() < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Ends it; fails if anything went wrong. Gives what was done, for people.
    pub(crate) async fn stop(self) -> (String, Vec<EventSource>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.workers.into_iter().chain(self.uploads) {
            // An upload has to be echoed to its end first, on a machine that has been kept busy.
            let ended = tokio::time::timeout(4 * super::DEADLINE, task).await;
            ended.expect("a client ends").expect("no request fails");
        }
        let (requests, took) = (self.requests.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64());
        let rate = requests as f64 / took;
        (format!("{requests} requests in {took:.1} s, {rate:.0} a second"), self.streams)
    }
}

/// An upload that goes on until it is stopped, and comes back byte for byte.
async fn upload(client: Arc<Client>, stop: Arc<AtomicBool>) {
    let (call, body) = client.call("POST", PATHS[1]).streamed();
    let sending = async {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            body.send(vec![b'x'; 1000].into()).await.expect("the upload goes on");
            sent += 1000;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(body);
        sent
    };
    let receiving = async {
        let mut body = call.open().await.into_body();
        super::client::count(&mut body).await.expect("the upload is answered to its end")
    };
    let (sent, received) = tokio::join!(sending, receiving);
    assert_eq!(sent, received);
}

type Kept = (super::Raw, usize);

/// One request on a connection that is kept for as long as the relay does.
async fn ask_on_kept(
    kept: Option<Kept>,
    (address, config): &(std::net::SocketAddr, Arc<rustls::ClientConfig>),
) -> Kept {
    let (mut connection, asked) = match kept {
        Some(kept) => kept,
        None => {
            let stream = super::raw::handshake(*address, Arc::clone(config), "localhost").await;
            (super::Raw::over(stream.expect("the relay completes the handshake")), 0)
        }
    };
    connection.send(format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", PATHS[0])).await;
    let answer = connection.read_response().await;
    assert_eq!((answer.status(), &*answer.body), (200, &b"ok"[..]), "request {asked}: {answer:?}");
    if answer.header("connection") == Some("close") {
        let stream = super::raw::handshake(*address, Arc::clone(config), "localhost").await;
        return (super::Raw::over(stream.expect("the relay completes the handshake")), 0);
    }
    (connection, asked + 1)
}
