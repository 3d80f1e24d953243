//! The PROXY protocol, v1 and v2: a load balancer says for whom it speaks, before TLS.

use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::ConnectionError;

/// The longest v1 header, its line end included (the protocol's section 2.1).
const MAX_V1: usize = 107;
/// The fixed part of a v2 header, and where in it the length of the rest stands.
const V2_FIXED: usize = 16;
const V2_LENGTH: std::ops::Range<usize> = 14..16;
/// The longest v2 rest that is read: addresses have at most 216 bytes, the TLVs that are in use a few hundred.
const MAX_V2_REST: usize = 2048;

/// Reads the header and nothing after it. `None`: the proxy speaks for itself (a health check).
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ConnectionError> {
    let first = stream.read_u8().await.map_err(ConnectionError::Io)?;
    if first == b'P' { read_v1(stream).await } else { read_v2(stream, first).await }
}

/// A line, byte by byte, so that nothing of what follows is taken: these are a hundred bytes a connection,
/// from a proxy nearby.
async fn read_v1(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ConnectionError> {
    let mut line = vec![b'P'];
    while !line.ends_with(b"\n") {
        if line.len() == MAX_V1 {
            return Err(ConnectionError::ProxyHeader);
        }
        line.push(stream.read_u8().await.map_err(ConnectionError::Io)?);
    }
    let header = v1::Header::try_from(line.as_slice()).map_err(|_| ConnectionError::ProxyHeader)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_v2(stream: &mut TcpStream, first: u8) -> Result<Option<SocketAddr>, ConnectionError> {
    let mut header = vec![0; V2_FIXED];
    header[0] = first;
    stream.read_exact(&mut header[1..]).await.map_err(ConnectionError::Io)?;
    if !header.starts_with(v2::PROTOCOL_PREFIX) {
        return Err(ConnectionError::ProxyHeader);
    }
    let rest = header[V2_LENGTH].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if rest > MAX_V2_REST {
        return Err(ConnectionError::ProxyHeader);
    }
    header.resize(V2_FIXED + rest, 0);
    stream.read_exact(&mut header[V2_FIXED..]).await.map_err(ConnectionError::Io)?;
    let header = v2::Header::try_from(header.as_slice()).map_err(|_| ConnectionError::ProxyHeader)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified)
        | (v2::Command::Local, _) => None,
    })
}
