//! The PROXY protocol, v1 and v2: a load balancer says for whom it speaks, before TLS.

use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::ConnectionError;

/// The longest header that is read: v1 has at most 107 bytes; v2's TLVs are all that can be longer.
const MAX_HEADER: usize = 1024;

/// Reads the header and nothing after it. `None`: the proxy speaks for itself (a health check).
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ConnectionError> {
    let mut header = Vec::with_capacity(108);
    loop {
        // A byte at a time, so that nothing of the TLS that follows is taken; these are a hundred bytes a
        // connection, from a proxy nearby.
        header.push(stream.read_u8().await.map_err(ConnectionError::Io)?);
        let parsed = HeaderResult::parse(&header);
        if parsed.is_incomplete() && header.len() < MAX_HEADER {
            continue;
        }
        return match parsed {
            HeaderResult::V1(Ok(header)) => Ok(v1_source(&header)),
            HeaderResult::V2(Ok(header)) => Ok(v2_source(&header)),
            HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(ConnectionError::ProxyHeader),
        };
    }
}

fn v1_source(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn v2_source(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified)
        | (v2::Command::Local, _) => None,
    }
}
