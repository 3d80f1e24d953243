//! Name → certificate: what a handshake is answered with, swapped as a whole while handshakes run.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::{
    InconsistentKeys,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate, error::X509Error, extensions::GeneralName, prelude::FromDer,
};

use crate::config::{ServerName, UnknownNames};

/// A certificate chain with its key, and what the leaf says of itself.
pub(crate) struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// The DNS names and addresses of the subject alternative names, in their order.
    pub(crate) names: Vec<ServerName>,
    /// `example.org` for each `*.example.org` among them.
    wildcards: Vec<Box<str>>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// SHA-256 of the leaf, as browsers show it: `AB:CD:…`.
    pub(crate) fingerprint: String,
}

/// Why PEM texts make no certificate that can be served.
#[derive(Debug)]
pub(crate) enum CertificateError {
    /// The chain has no `CERTIFICATE` section.
    NoCertificate,
    /// The chain is damaged PEM.
    Chain(pem::Error),
    /// The key has no private key section that can be read. Keeps no cause: it would quote the key's text.
    Key,
    /// The leaf is no X.509 certificate.
    X509(X509Error),
    /// The key is another certificate's.
    Mismatch,
    /// A root that certificates cannot be issued with.
    Issuer(rcgen::Error),
    /// A key or certificate of a kind that cannot be used.
    Unusable(rustls::Error),
}

impl Certificate {
    /// Of a PEM chain, leaf first, and the PEM private key of the leaf.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(CertificateError::Chain)?;
        let leaf = chain.first().cloned().ok_or(CertificateError::NoCertificate)?;
        let (_, parsed) =
            X509Certificate::from_der(&leaf).map_err(|error| CertificateError::X509(error.into()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            if error == InconsistentKeys::KeyMismatch.into() {
                CertificateError::Mismatch
            } else {
                CertificateError::Unusable(error)
            }
        })?;
        let (names, wildcards) = alternative_names(&parsed)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            wildcards,
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            fingerprint: fingerprint(&leaf),
        })
    }

    /// Whether a client that asked for `name` takes it.
    pub(crate) fn covers(&self, name: &ServerName) -> bool {
        self.names.contains(name)
            || matches!(name, ServerName::Dns(name) if name.split_once('.').is_some_and(
                |(_, parent)| self.wildcards.iter().any(|wildcard| **wildcard == *parent)
            ))
    }

    /// The leaf in DER.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        // `from_pem` makes no certificate without a leaf.
        &self.key.cert[0]
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("wildcards", &self.wildcards)
            .field("not_after", &self.not_after)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// SHA-256 in upper-case hexadecimal with colons.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    let bytes: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// The names and wildcards of the extension; kinds of names that no TLS client asks for are left out.
fn alternative_names(
    certificate: &X509Certificate<'_>,
) -> Result<(Vec<ServerName>, Vec<Box<str>>), CertificateError> {
    let (mut names, mut wildcards) = (Vec::new(), Vec::new());
    let extension = certificate.subject_alternative_name().map_err(CertificateError::X509)?;
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            match name.strip_prefix("*.") {
                Some(parent) => wildcards.push(parent.to_ascii_lowercase().into()),
                None => names.extend(name.parse::<ServerName>()),
            }
        } else if let GeneralName::IPAddress(octets) = name {
            names.extend(address(octets).map(ServerName::Ip));
        }
    }
    Ok((names, wildcards))
}

/// The address in an iPAddress field (RFC 5280, section 4.2.1.6).
pub(crate) fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

/// The certificates that are served, each by its names; swapped as a whole.
#[derive(Debug)]
pub(crate) struct Certificates {
    served: ArcSwap<Served>,
    unknown_names: UnknownNames,
}

/// One state of [`Certificates`]. Where two certificates share a name, the earlier one is served.
#[derive(Debug)]
struct Served {
    first: Option<Arc<Certificate>>,
    dns: HashMap<Box<str>, Arc<Certificate>>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<Certificate>>,
    addresses: HashMap<IpAddr, Arc<Certificate>>,
}

impl Certificates {
    /// Of `certificates`, the first being the one for clients that give no name.
    pub(crate) fn new(certificates: Vec<Arc<Certificate>>, unknown_names: UnknownNames) -> Self {
        Self { served: ArcSwap::from_pointee(Served::new(certificates)), unknown_names }
    }

    /// Serves `certificates`, and no other, from the next handshake on.
    pub(crate) fn replace(&self, certificates: Vec<Arc<Certificate>>) {
        self.served.store(Arc::new(Served::new(certificates)));
    }

    /// Whether one of the certificates has `name` itself in it, and not a wildcard that covers it.
    pub(crate) fn is_for(&self, name: &ServerName) -> bool {
        let served = self.served.load();
        match name {
            ServerName::Dns(name) => served.dns.contains_key(name),
            ServerName::Ip(address) => served.addresses.contains_key(address),
        }
    }

    /// The certificate for clients that give no name.
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
            return served.first.clone();
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        match (served.of_dns_name(name), self.unknown_names) {
            (Some(certificate), _) => Some(Arc::clone(certificate)),
            (None, UnknownNames::Default) => served.first.clone(),
            (None, UnknownNames::Reject) => None,
        }
    }
}

impl Served {
    fn new(certificates: Vec<Arc<Certificate>>) -> Self {
        let mut served = Self {
            first: certificates.first().cloned(),
            dns: HashMap::new(),
            wildcards: HashMap::new(),
            addresses: HashMap::new(),
        };
        // The last goes in first, so that the earlier ones replace it.
        for certificate in certificates.iter().rev() {
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
        served
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
        self.choose(client_hello.server_name()).map(|certificate| Arc::clone(&certificate.key))
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("there is no certificate in PEM"),
            Self::Chain(error) => write!(f, "the certificate is damaged: {error}"),
            Self::Key => f.write_str("there is no whole private key in PEM, or it has a passphrase"),
            Self::X509(error) => write!(f, "the certificate is damaged: {error}"),
            Self::Mismatch => f.write_str(
                "the private key belongs to another certificate; give the two that were made together",
            ),
            Self::Issuer(error) => write!(f, "no certificates can be issued with it: {error}"),
            Self::Unusable(error) => write!(f, "the certificate or its key cannot be used: {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed PEM certificate for `names`, and its key.
    fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        let (chain, key) = pem(names);
        Arc::new(Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn t1_the_name_that_a_client_sends_chooses_the_certificate() {
        let a = certificate(&["a.example", "10.0.0.1"]);
        let b = certificate(&["*.b.example", "b.example", "x.a.example"]);
        let all = vec![Arc::clone(&a), Arc::clone(&b)];
        let strict = Certificates::new(all.clone(), UnknownNames::Reject);
        let lenient = Certificates::new(all, UnknownNames::Default);
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
        let served = Certificates::new(
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
    fn the_set_is_swapped_as_a_whole() {
        let served = Certificates::new(vec![certificate(&["a.example"])], UnknownNames::Reject);
        served.replace(vec![certificate(&["b.example"])]);
        assert!(served.choose(Some("a.example")).is_none());
        assert!(served.choose(Some("b.example")).is_some());
        served.replace(Vec::new());
        assert!(served.choose(None).is_none());
        assert_eq!(served.first_name(), None);
    }

    #[test]
    fn of_two_certificates_for_a_name_the_earlier_is_served() {
        let (first, second) = (certificate(&["a.example"]), certificate(&["a.example"]));
        let served = Certificates::new(vec![Arc::clone(&first), second], UnknownNames::Reject);
        assert_eq!(served.choose(Some("a.example")).unwrap().fingerprint, first.fingerprint);
    }

    #[test]
    fn what_is_no_pair_is_told_apart() {
        let (chain, key) = pem(&["a.example"]);
        let (_, other) = pem(&["a.example"]);
        let error =
            |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(error(&chain, &other), CertificateError::Mismatch));
        assert!(matches!(error(&key, &key), CertificateError::NoCertificate));
        assert!(matches!(error("", &key), CertificateError::NoCertificate));
        assert!(matches!(error(&chain, &chain), CertificateError::Key));
        assert!(matches!(error(&chain, &key[..key.len() / 2]), CertificateError::Key));
        assert!(matches!(error(&chain[..chain.len() / 2], &key), CertificateError::Chain(_)));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(error(empty, &key), CertificateError::X509(_)));
    }

    #[test]
    fn neither_debug_nor_errors_show_a_key() {
        let (chain, key) = pem(&["a.example"]);
        let found = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert!(!format!("{found:?}").contains("key"));
        // Joined to one line, the key's text becomes part of the section's first line.
        let joined = key.replace('\n', "");
        let error = Certificate::from_pem(chain.as_bytes(), joined.as_bytes()).unwrap_err();
        assert_eq!(format!("{error:?}"), "Key");
    }

    #[test]
    fn the_fingerprint_is_sha_256_with_colons() {
        assert_eq!(
            fingerprint(b""),
            "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:\
             27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55"
        );
    }
}
