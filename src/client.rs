//! Who is asking: the connection's peer, or whom a trusted proxy speaks for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, uri::Scheme};
use ipnet::IpNet;

use crate::{in_flight::Requests, metrics::Metrics, tls::names::Names, wire::Bounds};

/// What a request knows of the connection that it came on.
pub(crate) struct Connection {
    /// Who connected, or whom a trusted proxy's PROXY header names.
    pub(crate) peer: SocketAddr,
    pub(crate) scheme: Scheme,
    pub(crate) requests: Requests,
    pub(crate) metrics: Arc<Metrics>,
    /// How large its heads may be: HTTP/1's are read within that, HTTP/2's are held against it.
    pub(crate) bounds: Bounds,
    /// Those that a request over TLS may be for; `None`: whoever it names.
    pub(crate) names: Option<Names>,
}

/// The client of one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// How the client speaks to the first of the proxies.
    pub(crate) scheme: Scheme,
    pub(crate) stands_for: StandsFor,
}

/// How many people an address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StandsFor {
    /// One client, or those behind one router.
    Itself,
    /// Everybody, as far as can be told: a trusted proxy that names nobody, or a program of this machine.
    Many,
}

/// Which peers are believed, and in which header.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    proxies: Box<[IpNet]>,
    header: HeaderName,
}

impl Trust {
    pub(crate) fn new(proxies: Vec<IpNet>, header: HeaderName) -> Self {
        Self { proxies: proxies.into(), header }
    }

    /// Whether a peer may speak for others.
    pub(crate) fn believes(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|net| net.contains(&peer))
    }

    /// The client of a request that came from `peer` over a connection of `scheme`. Takes the configured header
    /// off: it has done its work.
    ///
    /// SECURITY: only a trusted peer is believed: about the address in the one header that is configured, about
    /// the scheme in `X-Forwarded-Proto`. A list is read from the right, since all that is left of the last
    /// untrusted address may be made up (attacks.md H2).
    pub(crate) fn client(&self, peer: IpAddr, scheme: &Scheme, headers: &mut HeaderMap) -> Client {
        let peer = peer.to_canonical();
        let (address, scheme) = if self.believes(peer) {
            let scheme = match headers.get("x-forwarded-proto").map(|value| value.as_bytes()) {
                Some(b"https") => Scheme::HTTPS,
                Some(b"http") => Scheme::HTTP,
                _ => scheme.clone(),
            };
            (self.spoken_for(headers).unwrap_or(peer), scheme)
        } else {
            (peer, scheme.clone())
        };
        headers.remove(&self.header);
        let is_many = address.is_loopback() || self.believes(address);
        Client { address, scheme, stands_for: if is_many { StandsFor::Many } else { StandsFor::Itself } }
    }

    /// The rightmost address that is no trusted proxy itself; with nothing but proxies the leftmost of them.
    fn spoken_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let values: Vec<&[u8]> = headers.get_all(&self.header).iter().map(|value| value.as_bytes()).collect();
        let mut last = None;
        for entry in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            // An entry that is no address ends what can be believed.
            let Some(address) = address(entry) else { break };
            last = Some(address);
            if !self.believes(address) {
                break;
            }
        }
        last
    }
}

fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn trust(header: &'static str) -> Trust {
        let nets = ["127.0.0.0/8", "10.0.0.0/8"].map(|net| net.parse().unwrap());
        Trust::new(nets.to_vec(), HeaderName::from_static(header))
    }

    fn client_of(peer: &str, header: &'static str, values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        trust(header).client(peer.parse().unwrap(), &Scheme::HTTP, &mut headers).address.to_string()
    }

    #[test]
    fn h2_a_stranger_is_not_believed() {
        assert_eq!(client_of("192.0.2.1", "x-forwarded-for", &["6.6.6.6"]), "192.0.2.1");
    }

    #[test]
    fn h2_a_list_is_read_from_the_right() {
        let of = |values: &[&str]| client_of("::ffff:127.0.0.1", "x-forwarded-for", values);
        assert_eq!(of(&["6.6.6.6, 192.0.2.9"]), "192.0.2.9");
        assert_eq!(of(&["6.6.6.6, 192.0.2.9, 10.0.0.1"]), "192.0.2.9");
        assert_eq!(of(&["6.6.6.6", "192.0.2.9"]), "192.0.2.9");
        assert_eq!(of(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(of(&[]), "127.0.0.1");
        assert_eq!(of(&["6.6.6.6, junk"]), "127.0.0.1");
        assert_eq!(of(&["é, 192.0.2.9"]), "192.0.2.9");
        assert_eq!(of(&["junk, 10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn h2_only_the_configured_header_counts() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        headers.insert("cf-connecting-ip", HeaderValue::from_static("192.0.2.9"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let client =
            trust("cf-connecting-ip").client("10.1.1.1".parse().unwrap(), &Scheme::HTTP, &mut headers);
        let expected = Client {
            address: "192.0.2.9".parse().unwrap(),
            scheme: Scheme::HTTPS,
            stands_for: StandsFor::Itself,
        };
        assert_eq!(client, expected);
    }

    #[test]
    fn this_machine_and_proxies_that_name_nobody_stand_for_many() {
        let of = |peer: &str, value: &'static str| {
            let mut headers = HeaderMap::from_iter([(
                HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_static(value),
            )]);
            let trust = trust("x-forwarded-for");
            trust.client(peer.parse().unwrap(), &Scheme::HTTPS, &mut headers).stands_for
        };
        assert_eq!(of("10.0.0.1", "192.0.2.9"), StandsFor::Itself);
        assert_eq!(of("192.0.2.1", "10.0.0.1"), StandsFor::Itself);
        assert_eq!(of("10.0.0.1", "junk"), StandsFor::Many);
        assert_eq!(of("10.0.0.1", "10.0.0.2"), StandsFor::Many);
        assert_eq!(of("::1", "192.0.2.9"), StandsFor::Many);
    }
}
