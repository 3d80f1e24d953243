//! Name → certificate: what a handshake is answered with, swapped as a whole while handshakes run.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::info;

use super::{
    certificate::Certificate,
    challenges::{ACME_TLS, Challenges},
};
use crate::config::{ServerName, UnknownNames};

/// The certificates that are served, each by its names; swapped as a whole.
#[derive(Debug)]
pub(crate) struct Certificates {
    served: ArcSwap<Served>,
    unknown_names: UnknownNames,
    /// What a CA that comes to look is shown, in handshakes and on port 80.
    challenges: Arc<Challenges>,
    /// When a refused name was last told.
    told: Mutex<Option<Instant>>,
}

/// One state of [`Certificates`]. Where two certificates share a name, the earlier one is served.
#[derive(Debug)]
struct Served {
    /// Each in its place; a place may be empty.
    places: Vec<Option<Arc<Certificate>>>,
    /// The name whose certificate stands for all.
    first_name: Option<ServerName>,
    first: Option<Arc<Certificate>>,
    /// For clients that give no name: they came by an address.
    nameless: Option<Arc<Certificate>>,
    dns: HashMap<Box<str>, Arc<Certificate>>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<Certificate>>,
    addresses: HashMap<IpAddr, Arc<Certificate>>,
}

/// How often refused names are told.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Certificates {
    /// Of the certificate for one source of them.
    pub(crate) fn one(certificate: Arc<Certificate>, unknown_names: UnknownNames) -> Self {
        Self::new(vec![Some(certificate)], None, unknown_names, Arc::default())
    }

    /// Of certificates in their places, the earlier ones being served where two are for one name. Clients that
    /// give no name get the first one for an address, or else the one for `first_name`, or else the first.
    pub(crate) fn new(
        places: Vec<Option<Arc<Certificate>>>,
        first_name: Option<ServerName>,
        unknown_names: UnknownNames,
        challenges: Arc<Challenges>,
    ) -> Self {
        Self {
            served: ArcSwap::from_pointee(Served::new(places, first_name)),
            unknown_names,
            challenges,
            told: Mutex::default(),
        }
    }

    /// Serves `certificate` instead of what was in this place, or leaves it to the others, from the next
    /// handshake on.
    pub(crate) fn put(&self, place: usize, certificate: Option<Arc<Certificate>>) {
        self.served.rcu(|served| {
            let mut places = served.places.clone();
            if places.len() <= place {
                places.resize(place + 1, None);
            }
            places[place] = certificate.clone();
            Served::new(places, served.first_name.clone())
        });
    }

    /// What a CA that comes to look is shown.
    pub(crate) fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Whether one of the certificates has `name` itself in it, and not a wildcard that covers it.
    pub(crate) fn is_for(&self, name: &ServerName) -> bool {
        let served = self.served.load();
        match name {
            ServerName::Dns(name) => served.dns.contains_key(name),
            ServerName::Ip(address) => served.addresses.contains_key(address),
        }
    }

    /// Whether clients that name none of ours are sent away.
    pub(crate) fn reject_unknown(&self) -> bool {
        self.unknown_names == UnknownNames::Reject
    }

    /// Whether one of the certificates is for `name`, by a wildcard too.
    pub(crate) fn serves(&self, name: &ServerName) -> bool {
        self.served.load().of_name(name).is_some()
    }

    /// Every certificate, in the order of their places.
    pub(crate) fn all(&self) -> Vec<Arc<Certificate>> {
        self.served.load().places.iter().flatten().cloned().collect()
    }

    /// The certificate of the first name.
    pub(crate) fn first(&self) -> Option<Arc<Certificate>> {
        self.served.load().first.clone()
    }

    /// The first certificate's first name; `None`: it has wildcards alone.
    pub(crate) fn first_name(&self) -> Option<ServerName> {
        self.first()?.names.first().cloned()
    }

    /// The certificate for a ClientHello with this name in it (T1).
    fn choose(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        let served = self.served.load();
        // A client that connects to an IP address sends no name (RFC 6066, section 3).
        let Some(name) = name else {
            return served.nameless.clone();
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        match (served.of_dns_name(name), self.unknown_names) {
            (Some(certificate), _) => Some(Arc::clone(certificate)),
            (None, UnknownNames::Default) => served.first.clone(),
            (None, UnknownNames::Reject) => {
                self.tell_of(name);
                None
            }
        }
    }

    /// Tells that a name was asked for that is not served: the client sees nothing but an alert. Now and then
    /// only, since anybody can ask for anything.
    fn tell_of(&self, name: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            // rustls lets no name in that is none: nothing to escape.
            info!(name, "refused a client that asked for a name that no certificate is for");
        }
    }
}

impl Served {
    fn new(places: Vec<Option<Arc<Certificate>>>, first_name: Option<ServerName>) -> Self {
        let mut served = Self {
            places: Vec::new(),
            first_name: None,
            first: None,
            nameless: None,
            dns: HashMap::new(),
            wildcards: HashMap::new(),
            addresses: HashMap::new(),
        };
        // The last goes in first, so that the earlier ones replace it.
        for certificate in places.iter().flatten().rev() {
            for name in &certificate.names {
                match name {
                    ServerName::Dns(name) => served.dns.insert(name.clone(), Arc::clone(certificate)),
                    ServerName::Ip(address) => served.addresses.insert(*address, Arc::clone(certificate)),
                };
            }
            for parent in &certificate.wildcards {
                served.wildcards.insert(parent.clone(), Arc::clone(certificate));
            }
        }
        let wanted = first_name.as_ref().and_then(|name| served.of_name(name)).cloned();
        served.first = wanted.or_else(|| places.iter().flatten().next().cloned());
        let has_address = |certificate: &Certificate| {
            certificate.names.iter().any(|name| matches!(name, ServerName::Ip(_)))
        };
        let by_address = places.iter().flatten().find(|certificate| has_address(certificate));
        served.nameless = by_address.or(served.first.as_ref()).cloned();
        served.places = places;
        served.first_name = first_name;
        served
    }

    fn of_name(&self, name: &ServerName) -> Option<&Arc<Certificate>> {
        match name {
            ServerName::Dns(name) => self.of_dns_name(name),
            ServerName::Ip(address) => self.addresses.get(address),
        }
    }

    /// The name itself, else a wildcard in place of its first label (RFC 6125, section 6.4.3).
    fn of_dns_name(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.dns.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcards.get(parent)
        })
    }
}

impl ResolvesServerCert for Certificates {
    /// `None` ends the handshake with an alert. The name comes in lower case.
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737, section 4: who speaks this protocol comes for the proof, and gets nothing else.
        if client_hello.alpn().is_some_and(|mut offered| offered.any(|name| name == ACME_TLS)) {
            return self.challenges.tls_answer(client_hello.server_name()?);
        }
        self.choose(client_hello.server_name()).map(|certificate| Arc::clone(&certificate.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn served(certificates: Vec<Arc<Certificate>>, unknown_names: UnknownNames) -> Certificates {
        let places = certificates.into_iter().map(Some).collect();
        Certificates::new(places, None, unknown_names, Arc::default())
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn t1_the_name_that_a_client_sends_chooses_the_certificate() {
        let a = certificate(&["a.example", "10.0.0.1"]);
        let b = certificate(&["*.b.example", "b.example", "x.a.example"]);
        let all = vec![Arc::clone(&a), Arc::clone(&b)];
        let strict = served(all.clone(), UnknownNames::Reject);
        let lenient = served(all, UnknownNames::Default);
        for (sni, expected, fallback) in [
            (None, Some(&a), Some(&a)),
            (Some("a.example"), Some(&a), Some(&a)),
            (Some("a.example."), Some(&a), Some(&a)),
            (Some("x.a.example"), Some(&b), Some(&b)),
            (Some("b.example"), Some(&b), Some(&b)),
            (Some("www.b.example"), Some(&b), Some(&b)),
            // A wildcard stands for one label.
            (Some("a.www.b.example"), None, Some(&a)),
            (Some("other.example"), None, Some(&a)),
            (Some("example"), None, Some(&a)),
            // An address is no SNI.
            (Some("10.0.0.1"), None, Some(&a)),
        ] {
            let print = |found: Option<&Arc<Certificate>>| found.map(|found| found.fingerprint.clone());
            assert_eq!(print(strict.choose(sni).as_ref()), print(expected), "{sni:?}");
            assert_eq!(print(lenient.choose(sni).as_ref()), print(fallback), "{sni:?}");
        }
    }

    #[test]
    fn it_is_for_the_names_and_addresses_that_stand_in_a_certificate() {
        let served = served(
            vec![certificate(&["A.example", "10.0.0.1", "fd00::1"]), certificate(&["*.b.example"])],
            UnknownNames::Default,
        );
        for yes in ["a.example", "10.0.0.1", "fd00::1"] {
            assert!(served.is_for(&name(yes)), "{yes}");
        }
        // A wildcard covers names that a client can make up.
        for no in ["www.b.example", "b.example", "x.www.b.example", "10.0.0.2", "evil.example"] {
            assert!(!served.is_for(&name(no)), "{no}");
        }
        assert_eq!(served.first_name(), Some(name("a.example")));
    }

    #[test]
    fn a_new_certificate_takes_the_place_of_the_old_one_and_of_no_other() {
        let served = served(vec![certificate(&["a.example"])], UnknownNames::Reject);
        served.put(2, Some(certificate(&["c.example"])));
        served.put(0, Some(certificate(&["b.example"])));
        assert!(served.choose(Some("a.example")).is_none());
        assert!(served.choose(Some("b.example")).is_some() && served.choose(Some("c.example")).is_some());
        assert_eq!(served.first_name(), Some(name("b.example")));
        served.put(0, None);
        assert!(served.choose(Some("b.example")).is_none());
    }

    #[test]
    fn clients_without_a_name_get_a_certificate_for_an_address_or_that_of_the_first_name() {
        let places = vec![None, Some(certificate(&["a.example"])), Some(certificate(&["b.example"]))];
        let served = Certificates::new(places, Some(name("b.example")), UnknownNames::Reject, Arc::default());
        assert_eq!(served.first_name(), Some(name("b.example")));
        assert!(served.choose(None).unwrap().covers(&name("b.example")));
        served.put(0, Some(certificate(&["b.example", "c.example"])));
        assert_eq!(served.first().unwrap().names.len(), 2);
        served.put(3, Some(certificate(&["10.0.0.1"])));
        assert!(served.choose(None).unwrap().covers(&name("10.0.0.1")));
        assert_eq!(served.first_name(), Some(name("b.example")));
        let empty = Certificates::new(vec![None], None, UnknownNames::Default, Arc::default());
        assert!(empty.choose(None).is_none() && empty.first_name().is_none());
    }

    #[test]
    fn of_two_certificates_for_a_name_the_earlier_is_served() {
        let (first, second) = (certificate(&["a.example"]), certificate(&["a.example"]));
        let served = served(vec![Arc::clone(&first), second], UnknownNames::Reject);
        assert_eq!(served.choose(Some("a.example")).unwrap().fingerprint, first.fingerprint);
    }
}
