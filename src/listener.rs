//! The one accept loop: a permit first, then a connection; a back-off when the system has no more to give.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, PollSemaphore},
    task::TaskTracker,
};

use crate::{budget::Budget, connection::Service};

/// How long to wait when there are no descriptors or no memory: some connection will end.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often that is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;

/// Whether another of our own sockets may have the port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    Alone,
    /// With one that is about to close, and has said that it shares.
    Shared,
}

/// Binds a listening socket. `::` takes IPv4 too; where there is no IPv6, it is IPv4 alone.
pub(crate) fn bind(host: IpAddr, port: u16, shared: Port) -> io::Result<TcpListener> {
    match bind_to(SocketAddr::new(host, port), shared) {
        Err(error) if host.is_ipv6() && host.is_unspecified() && no_ipv6(&error) => {
            bind_to(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port), shared)
        }
        bound => bound,
    }
}

fn bind_to(address: SocketAddr, shared: Port) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the last connections of the one before.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared == Port::Shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    // Not in this kernel, or switched off on this machine.
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Asks an accept loop whether it still turns: it answers from its midst.
pub(crate) type Probe = mpsc::Sender<oneshot::Sender<()>>;

/// A connection that may be served.
type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// What accepting takes.
pub(crate) struct Accepting {
    /// Shared with whoever hands it to the next process.
    pub(crate) listener: Arc<TcpListener>,
    /// How the next connection is served; a reload changes it.
    pub(crate) service: Arc<ArcSwap<Service>>,
    /// One for each connection that may be open.
    pub(crate) permits: Budget,
    pub(crate) connections: TaskTracker,
    /// Cancelled when this port closes, or the relay ends.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the relay ends.
    pub(crate) drain: CancellationToken,
    pub(crate) probes: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Accepting {
    /// Accepts until the port closes, each connection in a task of its own. Returns early only where the socket
    /// itself is broken.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let mut told: Option<Instant> = None;
        let mut permits = self.permits.to_poll();
        loop {
            let next = poll_fn(|cx| poll_accept(&self.listener, &mut permits, cx));
            let accepted = tokio::select! {
                () = self.closing.cancelled() => break,
                Some(answer) = self.probes.recv() => {
                    // An error: whoever asked waits no longer.
                    answer.send(()).ok();
                    continue;
                }
                accepted = next => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => self.serve(stream, peer, permit, self.closing.clone()),
                Err(error) if is_exhausted(&error) => {
                    self.service.load().metrics.connections.exhausted.add();
                    if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                        tracing::warn!(%error, "cannot accept connections for now");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
                Err(error) if is_of_the_peer(&error) => {
                    tracing::debug!(%error, "a connection ended before it began")
                }
                Err(error) => return Err(error),
            }
        }
        // It may stand in line for one.
        drop(permits);
        if !self.drain.is_cancelled() {
            self.serve_what_waits().await;
        }
        Ok(())
    }

    /// Takes what the kernel has accepted for a port that a reload closes: it would be reset with the socket.
    async fn serve_what_waits(&self) {
        // A timeout of nothing polls once.
        while let Ok(permit) = self.permits.try_take()
            && let Ok(Ok((stream, peer))) = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await
        {
            self.serve(stream, peer, permit, self.drain.clone());
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        closing: CancellationToken,
    ) {
        let service = self.service.load_full();
        self.connections.spawn(async move {
            service.serve(stream, peer, closing).await;
            drop(permit);
        });
    }
}

/// The next connection, with a permit. The permit comes first: a connection that cannot be served is better off in the
/// kernel's queue. And none is kept while nobody comes: it may be the last, and another port's connections wait for it.
fn poll_accept(
    listener: &TcpListener,
    permits: &mut PollSemaphore,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Accepted>> {
    let Some(permit) = ready!(permits.poll_acquire(cx)) else {
        return Poll::Ready(Err(io::Error::other("the semaphore is never closed")));
    };
    let (stream, peer) = ready!(listener.poll_accept(cx))?;
    Poll::Ready(Ok((stream, peer, permit)))
}

/// What passes when something else ends.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// What accept(2) reports of the new connection or of the network, and not of the socket that listens.
fn is_of_the_peer(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        // A firewall, and what was already wrong with the connection when it was taken from the queue.
        Some(
            Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::CONNABORTED
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NONET
            | Errno::INTR
            | Errno::AGAIN,
        ) => true,
        Some(_) | None => false,
    }
}
