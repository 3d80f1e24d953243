//! The sockets of our DNS server: what may come in, for how long, and how much of it.

use std::{io, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{responder::ResponderHandle, zone::Transport};

/// Connections at once: resolvers come by TCP only after a truncated answer.
pub(super) const CONNECTIONS: usize = 32;
/// The longest query that is read. Real ones have under 300 bytes, padding included.
const QUERY: usize = 2048;
/// How long a connection may keep silent, or let an answer lie (RFC 7766 leaves it to the server).
const IDLE: Duration = Duration::from_secs(5);
/// How long and for how many queries a connection is kept at all, so that none keeps its place for ever.
const CONNECTION: Duration = Duration::from_secs(30);
const QUERIES: usize = 64;
/// How long to wait when the system has no more to give.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One query, one answer, one after the other: nothing is kept for a sender.
pub(super) async fn datagrams(socket: &UdpSocket, handle: &ResponderHandle) -> io::Result<()> {
    let mut buffer = vec![0; QUERY];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                debug!(%error, "no DNS query for now");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        // SECURITY: nobody asks from port 0, and an answer there would be an error for us.
        if peer.port() == 0 {
            continue;
        }
        let answer = handle.answer(&buffer[..length], Transport::Datagram);
        // An answer that the network will not have is the resolver's to ask for again; a full socket buffer
        // must not hold up the others.
        if let Some(answer) = answer
            && let Err(error) = socket.try_send_to(&answer, peer)
        {
            debug!(%error, %peer, "a DNS answer is not sent");
        }
    }
}

/// At most as many conversations at once as there are `permits`; they end with this future.
pub(super) async fn connections(
    listener: &TcpListener,
    handle: &ResponderHandle,
    permits: &Arc<Semaphore>,
) -> io::Result<()> {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One too many is closed at once: no descriptors are kept for who waits.
                let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
                    debug!(%peer, "too many DNS connections");
                    continue;
                };
                let handle = handle.clone();
                open.spawn(async move {
                    // SECURITY: a client that trickles its queries has its place for so long and no longer.
                    if let Ok(Err(error)) = timeout(CONNECTION, converse(stream, &handle)).await {
                        debug!(%error, %peer, "a DNS connection broke");
                    }
                    drop(permit);
                });
            }
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                debug!(%error, "no DNS connection for now");
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// Queries and answers, each after its length (RFC 1035, section 4.2.2), until there is no more.
async fn converse(mut stream: TcpStream, handle: &ResponderHandle) -> io::Result<()> {
    let mut buffer = vec![0; QUERY];
    for _ in 0..QUERIES {
        let read = async {
            let mut length = [0; 2];
            stream.read_exact(&mut length).await?;
            let length = usize::from(u16::from_be_bytes(length));
            // SECURITY: a length is a claim; nothing is kept for it.
            let query = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
            stream.read_exact(query).await?;
            io::Result::Ok(length)
        };
        let length = match timeout(IDLE, read).await? {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(answer) = handle.answer(&buffer[..length], Transport::Stream) else {
            return Ok(());
        };
        // At most 64 KiB: `answer` holds to what the two bytes can tell.
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// Whether the socket itself is broken. All else is of a peer, of the network, or passes.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}
