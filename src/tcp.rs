//! What every TCP connection gets, ours to backends and clients' to us.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A peer that has not been heard of for this long is gone.
const VANISHED: Duration = Duration::from_secs(60);

/// Sends small writes at once, and has the kernel find a peer that vanished without a word within a minute or
/// so: on an idle connection by keep-alive, else by what it does not acknowledge.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(VANISHED / 2).with_interval(VANISHED / 6).with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(VANISHED))
}
