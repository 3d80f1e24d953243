//! A backend that answers as it is told and records what it was asked, byte for byte.
//!
//! It is a server of its own and not a library's, so that it sees each byte of the relay's and can misbehave.

mod connection;
mod reply;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

pub(crate) use reply::{Feed, Reply};

use super::within;

type Handler = Box<dyn Fn(&Recorded) -> Reply + Send + Sync>;

/// A running backend. Dropping it closes its listener and all its connections.
pub(crate) struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    feeds: Mutex<mpsc::UnboundedReceiver<Feed>>,
    accepting: JoinHandle<()>,
}

/// The answers of a backend, path by path.
pub(crate) struct BackendBuilder {
    routes: Vec<(String, Handler)>,
    tls: Option<Arc<ServerConfig>>,
    address: SocketAddr,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Every byte up to and with the blank line.
    pub(crate) head: String,
    pub(crate) method: String,
    /// The request target, as written.
    pub(crate) target: String,
    /// The body's first MiB.
    pub(crate) body: Vec<u8>,
    /// How many bytes of body came.
    pub(crate) length: u64,
    /// When the body ended.
    pub(crate) ended: Option<Instant>,
    /// Which connection it came on, counted from 1.
    pub(crate) connection: usize,
    /// The other end of that connection.
    pub(crate) peer: SocketAddr,
    /// Whether the relay closed before the response was out.
    pub(crate) abandoned: bool,
    pub(crate) trailers: String,
}

struct Shared {
    routes: Vec<(String, Handler)>,
    requests: watch::Sender<Vec<Recorded>>,
    open: watch::Sender<usize>,
    opened: AtomicUsize,
    /// Each change closes the connections that wait for a request.
    hang_ups: watch::Sender<usize>,
    feeds: mpsc::UnboundedSender<Feed>,
}

impl Backend {
    pub(crate) fn builder() -> BackendBuilder {
        BackendBuilder { routes: Vec::new(), tls: None, address: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }

    /// Answers everything with `200` and `ok`.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.borrow().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn only(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// The latest request.
    pub(crate) fn last(&self) -> Recorded {
        self.requests().pop().expect("the backend was asked")
    }

    /// Waits until the requests are as `wanted`.
    pub(crate) async fn wait(&self, what: &str, wanted: impl FnMut(&Vec<Recorded>) -> bool) {
        let mut requests = self.shared.requests.subscribe();
        within(what, requests.wait_for(wanted)).await.unwrap();
    }

    /// The stream that the next request to a [`Reply::feed`] opens.
    pub(crate) async fn feed(&self) -> Feed {
        within("a stream to be opened", async { self.feeds.lock().await.recv().await }).await.unwrap()
    }

    /// The same, however long it takes; `None`: the backend is gone.
    pub(crate) async fn next_feed(&self) -> Option<Feed> {
        self.feeds.lock().await.recv().await
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Connections that were ever opened.
    pub(crate) fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Waits until `count` connections are open.
    pub(crate) async fn wait_open(&self, count: usize) {
        let mut open = self.shared.open.subscribe();
        within(&format!("{count} open connections"), open.wait_for(|open| *open == count)).await.unwrap();
    }

    /// Closes the connections that wait for a request, as a backend does whose keep-alive limit has come.
    pub(crate) async fn close_idle(&self) {
        self.shared.hang_ups.send_modify(|count| *count += 1);
        self.wait_open(0).await;
    }
}

impl BackendBuilder {
    /// Answers requests to `path`, whatever the query, with what `handler` makes of the request's head.
    pub(crate) fn on(
        mut self,
        path: &str,
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.routes.push((path.to_owned(), Box::new(handler)));
        self
    }

    /// Listens on an address that the relay knows already.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Speaks TLS.
    pub(crate) fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    pub(crate) async fn start(self) -> Backend {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (feeds, feed_receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            routes: self.routes,
            requests: watch::Sender::default(),
            open: watch::Sender::default(),
            opened: AtomicUsize::new(0),
            hang_ups: watch::Sender::default(),
            feeds,
        });
        let accepting = tokio::spawn(accept(listener, self.tls.map(TlsAcceptor::from), Arc::clone(&shared)));
        Backend { address, shared, feeds: Mutex::new(feed_receiver), accepting }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with this task, which ends every connection.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // The relay looks at its start whether anybody is here, and says nothing: that does not count.
            if stream.peek(&mut [0]).await.unwrap_or(0) == 0 {
                return;
            }
            let number = shared.opened.fetch_add(1, Ordering::Relaxed) + 1;
            let guard = OpenGuard::new(Arc::clone(&shared));
            match tls {
                None => connection::serve(Box::new(stream), &shared, (number, peer)).await,
                Some(tls) => {
                    // An error: the relay refused our certificate, which is what some tests want.
                    if let Ok(stream) = tls.accept(stream).await {
                        connection::serve(Box::new(stream), &shared, (number, peer)).await;
                    }
                }
            }
            drop(guard);
        });
    }
}

/// Counts a connection while it is open.
struct OpenGuard(Arc<Shared>);

impl OpenGuard {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Recorded {
    /// The values of a header, in order.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// A header's only value; fails where there are two.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() <= 1, "{name} came {} times: {}", values.len(), self.head);
        values.first().copied()
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}
