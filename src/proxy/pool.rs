//! Connections to one origin: bounded, kept while idle, handed on while there is a queue; a connection from one
//! client's source address serves that client alone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    egress::Egress,
    identity::Source,
    socket::{Notes, Socket},
};
use crate::{
    body::Body,
    budget::{Budget, share::Share},
    error::{ConnectError, RequestError},
};

/// A connection that is given back takes at most this long to be ready for the next request: what is left of
/// its own request body has to be written first.
const SETTLE: Duration = Duration::from_secs(5);

/// How much of a response is read at once: beyond this a large download gains nothing.
const READ_BUFFER: usize = 64 << 10;

/// The connections to one origin.
pub(crate) struct Pool {
    egress: Egress,
    /// One permit for each open socket, idle ones too.
    sockets: Budget,
    shelf: Arc<Mutex<Shelf>>,
    /// How long a request waits for a connection when all are taken.
    pub(super) queue_for: Duration,
    /// Closes connections that nobody asked for in a while.
    _sweeper: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shelf {
    /// In the order they were put here. The last one is the first to be used again, so that others grow old.
    idle: VecDeque<Idle>,
    /// Requests that wait for a connection from their source, in the order they came.
    queue: VecDeque<Waiting>,
}

struct Idle {
    connection: Connection,
    source: Source,
    since: Instant,
}

struct Waiting {
    source: Source,
    give: oneshot::Sender<Connection>,
}

/// A connection that HTTP is spoken on.
struct Connection {
    sender: SendRequest<Body>,
    notes: Arc<Notes>,
    /// Cancelled when it has ended, whatever hyper still says.
    ended: CancellationToken,
}

/// A connection that is one request's, until it is dropped.
pub(crate) struct Lease {
    connection: Option<Connection>,
    source: Source,
    shelf: Arc<Mutex<Shelf>>,
    age: Age,
    /// Of its client's share of the connections.
    share: Option<Share>,
}

/// Whether a connection has served before: then it may have been closed while nobody looked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Age {
    Fresh,
    Reused,
}

impl Pool {
    /// As many `sockets` at once as there may be; idle ones are closed after `idle_for`.
    pub(crate) fn new(egress: Egress, sockets: Budget, idle_for: Duration, queue_for: Duration) -> Self {
        let shelf = Arc::<Mutex<Shelf>>::default();
        let sweeper = tokio::spawn(sweep(Arc::clone(&shelf), idle_for));
        Self { egress, sockets, shelf, queue_for, _sweeper: AbortOnDropHandle::new(sweeper) }
    }

    /// Connections in use, idle ones, and requests that wait for one.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let shelf = lock(&self.shelf);
        let (idle, waiting) = (shelf.idle.len(), shelf.queue.len());
        (self.sockets.taken().saturating_sub(idle), idle, waiting)
    }

    /// The bound on its sockets.
    pub(crate) fn sockets(&self) -> &Budget {
        &self.sockets
    }

    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// A connection from `source`: an idle one, a new one, or the first that another request gives back until `end`.
    /// Where the bound is reached, the oldest idle connection of another source makes room.
    pub(crate) async fn lease(&self, source: Source, end: Instant) -> Result<Lease, RequestError> {
        if let Some(connection) = lock(&self.shelf).take_idle(source) {
            return Ok(self.leased(connection, source, Age::Reused));
        }
        let permit = match self.sockets.try_take() {
            Ok(permit) => permit,
            Err(_) => {
                let given = lock(&self.shelf).enqueue(source);
                tokio::select! {
                    biased;
                    Ok(connection) = given => return Ok(self.leased(connection, source, Age::Reused)),
                    Ok(permit) = self.sockets.take() => permit,
                    () = tokio::time::sleep_until(end) => return Err(RequestError::Busy),
                }
            }
        };
        self.connect(permit, source).await.map_err(RequestError::Connect)
    }

    /// A connection that nobody used before.
    async fn connect(&self, permit: OwnedSemaphorePermit, source: Source) -> Result<Lease, ConnectError> {
        let stream = self.egress.connect(source).await?;
        let notes = Arc::<Notes>::default();
        // SECURITY: a port that was bound, and waits for a minute behind a plain close, is kept from all programs of this
        // machine, whatever they connect to: a client whose requests end early would take them all (measured: 12,000 in
        // five seconds of HTTP/2 resets; attacks.md A1).
        notes.reset.store(source.is_some(), Ordering::Release);
        let socket = TokioIo::new(Socket::new(stream, Arc::clone(&notes), permit));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(socket)
            .await
            .map_err(ConnectError::Http)?;
        // Ends when the sender is dropped or the peer closes. Its error is told to the request that it hits.
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        tokio::spawn(async move {
            connection.with_upgrades().await.ok();
            drop(end);
        });
        Ok(self.leased(Connection { sender, notes, ended }, source, Age::Fresh))
    }

    fn leased(&self, connection: Connection, source: Source, age: Age) -> Lease {
        Lease { connection: Some(connection), source, shelf: Arc::clone(&self.shelf), age, share: None }
    }
}

impl Lease {
    pub(crate) fn age(&self) -> Age {
        self.age
    }

    /// Takes from its client's share for as long as its exchange goes on.
    pub(super) fn counts(&mut self, share: Option<Share>) {
        self.share = share;
    }

    fn sender(&mut self) -> &mut SendRequest<Body> {
        // Taken in `drop` alone.
        &mut self.connection.as_mut().expect("a lease holds its connection until it is dropped").sender
    }

    /// Sends a request, and gives the head of its response. With an error it tells whether any byte of one came.
    ///
    /// A request that is sent at the very moment when its connection ends can be left in the channel between the two:
    /// nobody receives it, and nobody tells (measured: one of a thousand where the backend closes after each response).
    /// It comes back as unsent when the sending side is dropped.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, (TrySendError<Request<Body>>, bool)> {
        let ended = self.connection.as_ref().map(|connection| connection.ended.clone()).unwrap_or_default();
        let mut sending = std::pin::pin!(self.sender().try_send_request(request));
        let (outcome, received) = tokio::select! {
            biased;
            outcome = &mut sending => (outcome, self.has_received()),
            () = ended.cancelled() => {
                let received = self.has_received();
                self.connection = None;
                (sending.await, received)
            }
        };
        outcome.map_err(|error| (error, received))
    }

    /// From now on it is the next response that counts as received.
    pub(crate) fn forget_received(&self) {
        if let Some(connection) = &self.connection {
            connection.notes.received.store(0, Ordering::Release);
            connection.notes.answered.store(false, Ordering::Release);
        }
    }

    /// The head of the response is there: what follows may be as long as it likes.
    pub(crate) fn answered(&self) {
        if let Some(connection) = &self.connection {
            connection.notes.answered.store(true, Ordering::Release);
        }
    }

    /// The connection is closed with a reset when its response is given up: a server that only writes learns of
    /// that by its next write, and of a plain close by the one after.
    pub(crate) fn reset_when_dropped(&self) {
        if let Some(connection) = &self.connection {
            connection.notes.reset.store(true, Ordering::Release);
        }
    }

    /// The connection ends as its two sides end it: it has become a tunnel.
    pub(crate) fn close_plainly(&self) {
        if let Some(connection) = &self.connection {
            connection.notes.reset.store(false, Ordering::Release);
        }
    }

    /// Closes the connection, however whole its exchange seems.
    pub(crate) fn discard(mut self) {
        self.connection = None;
    }

    /// Whether any byte of a response has come.
    fn has_received(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.notes.received.load(Ordering::Acquire) > 0)
    }
}

impl Drop for Lease {
    /// Gives the connection back once its exchange is whole. One whose response was not read to its end is
    /// closed by hyper, and never ready again.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            lock(&self.shelf).put(connection, self.source);
            return;
        }
        let (shelf, source, share) = (Arc::clone(&self.shelf), self.source, self.share.take());
        tokio::spawn(async move {
            let _share = share;
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, connection.sender.ready()).await {
                lock(&shelf).put(connection, source);
            }
        });
    }
}

impl Shelf {
    /// The connection of `source` that was used last, if there is one that is still open.
    fn take_idle(&mut self, source: Source) -> Option<Connection> {
        loop {
            let at = self.idle.iter().rposition(|idle| idle.source == source)?;
            let idle = self.idle.remove(at)?;
            if idle.connection.sender.is_ready() {
                return Some(idle.connection);
            }
        }
    }

    /// Waits for a connection, and closes the oldest idle one: the room that it leaves is the first in the queue's.
    fn enqueue(&mut self, source: Source) -> oneshot::Receiver<Connection> {
        // Those that gave up are not taken out when they do.
        self.queue.retain(|waiting| !waiting.give.is_closed());
        self.idle.pop_front();
        let (give, given) = oneshot::channel();
        self.queue.push_back(Waiting { source, give });
        given
    }

    /// Keeps a connection, or hands it to the first that waits for one from its source. If only others wait it
    /// is closed, which makes room for theirs.
    fn put(&mut self, mut connection: Connection, source: Source) {
        self.queue.retain(|waiting| !waiting.give.is_closed());
        while let Some(at) = self.queue.iter().position(|waiting| waiting.source == source) {
            let Some(waiting) = self.queue.remove(at) else {
                break;
            };
            match waiting.give.send(connection) {
                Ok(()) => return,
                // It got a connection in another way, or gave up.
                Err(back) => connection = back,
            }
        }
        if self.queue.is_empty() {
            self.idle.push_back(Idle { connection, source, since: Instant::now() });
        }
    }
}

async fn sweep(shelf: Arc<Mutex<Shelf>>, idle_for: Duration) {
    let mut tick = tokio::time::interval(idle_for.min(Duration::from_secs(5)));
    loop {
        tick.tick().await;
        lock(&shelf)
            .idle
            .retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() < idle_for);
    }
}

/// A panic cannot leave the shelf half changed: each change is one call on a collection.
fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}
