//! What the relay counts, for whoever asks how it is. It outlives reloads; gauges are guards with Drop.
//!
//! Counting is one relaxed addition: nothing here is locked on a request's way, and nothing tells who asked for what.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use http::StatusCode;
use time::OffsetDateTime;

/// How often something happened.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are of something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Gauge {
    pub(crate) fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(crate) fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that is counted in one process.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) started: OffsetDateTime,
    born: Instant,
    pub(crate) connections: Connections,
    pub(crate) requests: Requests,
    pub(crate) backend: Arc<Origin>,
    /// The front end, where it is another server.
    pub(crate) frontend: Arc<Origin>,
    listening: Mutex<Vec<Listening>>,
}

/// Client connections: what each of them is at now, and those that came to nothing.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// Up to the end of the handshake.
    pub(crate) handshake: Gauge,
    pub(crate) http1: Gauge,
    pub(crate) http2: Gauge,
    /// Plain HTTP where HTTPS is meant.
    pub(crate) redirect: Gauge,
    pub(crate) accepted: Counter,
    /// Closed at once: the client had too many.
    pub(crate) refused: Counter,
    /// Could not be accepted: the system had no more descriptors, or no memory.
    pub(crate) exhausted: Counter,
}

/// Requests, by how they were answered.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// By the first digit of the status, from 1xx to 5xx.
    classes: [Counter; 5],
    /// The client left before the head of a response.
    aborted: Counter,
    /// Answered 429, or told to come back: the client asked too often.
    pub(crate) limited: Counter,
}

/// What is under way to an origin.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Event streams that it feeds.
    pub(crate) live: Gauge,
    /// Event streams that wait for it.
    pub(crate) held: Gauge,
    /// Connections that became tunnels.
    pub(crate) tunnels: Gauge,
    /// Requests that were sent again.
    pub(crate) retries: Counter,
    /// Streams that waited for it in vain.
    pub(crate) given_up: Counter,
    /// How many connections there may be to it, and how many streams among them.
    most_connections: AtomicUsize,
    most_streams: AtomicUsize,
}

impl Origin {
    /// Notes how many connections there may be, and how many streams among them.
    pub(crate) fn bound(&self, connections: usize, streams: usize) {
        self.most_connections.store(connections, Ordering::Relaxed);
        self.most_streams.store(streams, Ordering::Relaxed);
    }

    /// What was noted of them.
    pub(crate) fn bounds(&self) -> (usize, usize) {
        (self.most_connections.load(Ordering::Relaxed), self.most_streams.load(Ordering::Relaxed))
    }
}

/// A listening socket, as the log tells of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Listening {
    pub(crate) kind: &'static str,
    pub(crate) address: SocketAddr,
}

/// That it listens, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    metrics: Arc<Metrics>,
    listening: Listening,
}

impl Metrics {
    /// Of a process that starts now.
    pub(crate) fn new() -> Self {
        Self {
            started: OffsetDateTime::now_utc(),
            born: Instant::now(),
            connections: Connections::default(),
            requests: Requests::default(),
            backend: Arc::default(),
            frontend: Arc::default(),
            listening: Mutex::default(),
        }
    }

    /// Since the start; the wall clock may have jumped.
    pub(crate) fn uptime(&self) -> std::time::Duration {
        self.born.elapsed()
    }

    /// Notes a listening socket.
    pub(crate) fn list(self: &Arc<Self>, kind: &'static str, address: SocketAddr) -> Listed {
        let listening = Listening { kind, address };
        self.lock().push(listening.clone());
        Listed { metrics: Arc::clone(self), listening }
    }

    /// The sockets that listen now.
    pub(crate) fn listening(&self) -> Vec<Listening> {
        self.lock().clone()
    }

    /// A panic cannot leave the list half changed: each change is one call on it.
    fn lock(&self) -> MutexGuard<'_, Vec<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut list = self.metrics.lock();
        if let Some(at) = list.iter().position(|listening| *listening == self.listening) {
            list.remove(at);
        }
    }
}

impl Requests {
    /// A request that begins: it counts as aborted unless it is answered.
    pub(crate) fn begin(&self) -> Outcome<'_> {
        Outcome { requests: self, counter: &self.aborted }
    }

    /// How many were answered, from 1xx to 5xx.
    pub(crate) fn answered(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.classes[class].value())
    }

    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.value()
    }
}

/// How a request ends, counted when this is dropped.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    requests: &'a Requests,
    counter: &'a Counter,
}

impl Outcome<'_> {
    pub(crate) fn answered(mut self, status: StatusCode) {
        // A status has three digits, and one that no class is for is no server's.
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.counter = &self.requests.classes[class];
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.counter.add();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_by_its_status_or_as_aborted() {
        let requests = Requests::default();
        for status in [101, 200, 204, 301, 404, 429, 502, 999] {
            requests.begin().answered(StatusCode::from_u16(status).unwrap());
        }
        drop(requests.begin());
        assert_eq!((requests.answered(), requests.aborted()), ([1, 2, 1, 2, 2], 1));
    }

    #[test]
    fn a_gauge_counts_what_is_not_dropped() {
        let gauge = Gauge::default();
        let counted = [gauge.count(), gauge.count()];
        assert_eq!(gauge.value(), 2);
        drop(counted);
        assert_eq!(gauge.value(), 0);
    }

    #[test]
    fn a_socket_is_listed_while_it_listens() {
        let metrics = Arc::new(Metrics::new());
        let [one, two] = [1, 2].map(|port| metrics.list("https", ([127, 0, 0, 1], port).into()));
        drop(one);
        let ports: Vec<_> = metrics.listening().iter().map(|listening| listening.address.port()).collect();
        assert_eq!(ports, [2]);
        drop(two);
        assert!(metrics.listening().is_empty());
    }
}
