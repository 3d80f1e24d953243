//! A client's address as a loopback source address, so that a backend that counts by peer counts each client.
//!
//! Waitress 3 throws `X-Forwarded-For` away: behind any proxy all users of a Sova share one rate limit (measured:
//! the eleventh sign-up in two minutes is refused, whoever it is). From distinct addresses in 127.0.0.0/8 each
//! has a limit of its own.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::admission::ClientKey;

/// 127.64.0.0/10: far from 127.0.0.1 and from 127.0.0.53, and large enough that two clients seldom meet.
const NETWORK: u32 = 0x7f40_0000;
const HOSTS: u32 = 0x003f_ffff;

/// Where a connection comes from: an address that stands for one client, or the system's choice.
pub(crate) type Source = Option<Ipv4Addr>;

/// Gives each client a source address of its own.
///
/// The key is made at start and never leaves the process: the backend's logs tell clients apart, and nobody
/// can compute who they were.
pub(crate) struct Identity {
    /// SipHash under a key of the system's randomness.
    key: RandomState,
    /// Whether such an address could not be bound: then all use the plain way.
    refused: AtomicBool,
}

impl Identity {
    pub(crate) fn new() -> Self {
        Self { key: RandomState::new(), refused: AtomicBool::new(false) }
    }

    /// The source address of a client; an IPv6 client is its /64, which one person has all of.
    pub(crate) fn source(&self, client: IpAddr) -> Source {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let hash = self.key.hash_one(ClientKey::from(client));
        Some(Ipv4Addr::from(NETWORK | hash as u32 & HOSTS))
    }

    /// Notes that a source address cannot be bound here. Told once; from now on all use the plain way.
    pub(crate) fn refuse(&self, error: &std::io::Error) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "no source address of 127.64.0.0/10 can be bound: the backend sees all clients as one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn source(identity: &Identity, client: &str) -> Ipv4Addr {
        identity.source(client.parse().unwrap()).unwrap()
    }

    #[test]
    fn each_client_has_one_address_of_the_network() {
        let identity = Identity::new();
        let sources: HashSet<_> = (0..=255)
            .map(|n| source(&identity, &format!("192.0.2.{n}")))
            .inspect(|source| assert_eq!(u32::from(*source) & !HOSTS, NETWORK, "{source}"))
            .collect();
        assert!(sources.len() >= 254, "{} of 256", sources.len());
        assert_eq!(source(&identity, "192.0.2.1"), source(&identity, "::ffff:192.0.2.1"));
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let identity = Identity::new();
        assert_eq!(source(&identity, "2001:db8::1"), source(&identity, "2001:db8::ffff"));
        assert_ne!(source(&identity, "2001:db8::1"), source(&identity, "2001:db8:0:1::1"));
    }

    #[test]
    fn the_address_means_nothing_to_another_process() {
        let [one, two] = [(); 2].map(|()| Identity::new());
        let all = |identity| (1..9).map(|n| source(identity, &format!("192.0.2.{n}"))).collect::<Vec<_>>();
        assert_ne!(all(&one), all(&two));
    }

    #[test]
    fn where_none_can_be_bound_all_use_the_plain_way() {
        let identity = Identity::new();
        identity.refuse(&std::io::ErrorKind::AddrNotAvailable.into());
        assert_eq!(identity.source(Ipv4Addr::LOCALHOST.into()), None);
    }
}
