//! The one accept loop: a permit first, then a connection; a back-off when the system has no more to give.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::connection::Service;

/// How long to wait when there are no descriptors or no memory: some connection will end.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often that is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;

/// Binds a listening socket. `::` takes IPv4 too; where there is no IPv6, it is IPv4 alone.
pub(crate) fn bind(host: IpAddr, port: u16) -> io::Result<TcpListener> {
    match bind_to(SocketAddr::new(host, port)) {
        Err(error) if host.is_ipv6() && host.is_unspecified() && no_ipv6(&error) => {
            bind_to(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port))
        }
        bound => bound,
    }
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the last connections of the one before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    // Not in this kernel, or switched off on this machine.
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Accepts until `drain` is cancelled, each connection in a task of `connections`. Returns early only where
/// the socket itself is broken.
pub(crate) async fn accept(
    listener: TcpListener,
    service: Service,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    drain: CancellationToken,
) -> io::Result<()> {
    let mut told: Option<Instant> = None;
    loop {
        // Permit first: a connection that cannot be served is better off in the kernel's queue.
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|accepted| (accepted, permit))
        };
        let accepted = tokio::select! {
            () = drain.cancelled() => return Ok(()),
            accepted = next => accepted,
        };
        match accepted {
            Ok(((stream, peer), permit)) => {
                let (service, drain) = (service.clone(), drain.clone());
                connections.spawn(async move {
                    service.serve(stream, peer, drain).await;
                    drop(permit);
                });
            }
            Err(error) if is_exhausted(&error) => {
                service.metrics.connections.exhausted.add();
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
