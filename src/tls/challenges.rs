//! What the listeners show a CA that comes to look: HTTP-01 on port 80, TLS-ALPN-01 in a handshake.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::config::ServerName;

/// The protocol of a TLS-ALPN-01 handshake (RFC 8737, section 6.2).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Below this path HTTP-01 answers (RFC 8555, section 8.3).
pub(crate) const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// What is shown at this moment: nothing, most of the time.
#[derive(Default)]
pub(crate) struct Challenges {
    /// Token → key authorisation.
    http: Mutex<HashMap<Box<str>, Arc<str>>>,
    /// The name that the CA's handshake gives → a certificate with the proof in it.
    tls: Mutex<HashMap<Box<str>, Arc<CertifiedKey>>>,
}

/// Something that is shown until this is dropped.
pub(crate) struct Shown {
    challenges: Arc<Challenges>,
    key: Key,
}

enum Key {
    Http(Box<str>),
    Tls(Box<str>),
}

/// Why no challenge certificate can be made.
#[derive(Debug)]
pub(crate) enum ChallengeError {
    Make(rcgen::Error),
    Load(rustls::Error),
}

impl Challenges {
    /// The key authorisation for a request below [`HTTP_PATH`] with this last segment.
    pub(crate) fn http_answer(&self, token: &str) -> Option<Arc<str>> {
        lock(&self.http).get(token).cloned()
    }

    /// The certificate for a handshake that offers [`ACME_TLS`] and gives this name.
    pub(crate) fn tls_answer(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        lock(&self.tls).get(name).cloned()
    }

    /// Answers requests for `token`.
    pub(crate) fn show_http(self: &Arc<Self>, token: &str, key_authorization: &str) -> Shown {
        lock(&self.http).insert(token.into(), key_authorization.into());
        self.shown(Key::Http(token.into()))
    }

    /// Answers handshakes for `name`; `digest` is the SHA-256 of the key authorisation.
    pub(crate) fn show_tls(
        self: &Arc<Self>,
        name: &ServerName,
        digest: &[u8; 32],
    ) -> Result<Shown, ChallengeError> {
        let certificate = challenge_certificate(name, digest)?;
        let asked = asked_name(name);
        lock(&self.tls).insert(asked.clone(), Arc::new(certificate));
        Ok(self.shown(Key::Tls(asked)))
    }

    fn shown(self: &Arc<Self>, key: Key) -> Shown {
        Shown { challenges: Arc::clone(self), key }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        match &self.key {
            Key::Http(token) => forget(&self.challenges.http, token),
            Key::Tls(name) => forget(&self.challenges.tls, name),
        }
    }
}

fn forget<V>(map: &Mutex<HashMap<Box<str>, V>>, key: &str) {
    lock(map).remove(key);
}

/// A map is whole after each of the calls above, also where a thread panicked with the lock.
fn lock<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name in the CA's ClientHello: for an address its reverse mapping (RFC 8738, section 6).
fn asked_name(name: &ServerName) -> Box<str> {
    match name {
        ServerName::Dns(name) => name.clone(),
        ServerName::Ip(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa").into()
        }
        ServerName::Ip(IpAddr::V6(address)) => {
            let octets = address.octets();
            let nibbles = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
            format!("{labels}ip6.arpa").into()
        }
    }
}

/// A self-signed certificate for `name` with the proof in a critical extension (RFC 8737, section 3).
fn challenge_certificate(name: &ServerName, digest: &[u8; 32]) -> Result<CertifiedKey, ChallengeError> {
    let key = KeyPair::generate().map_err(ChallengeError::Make)?;
    let mut params = CertificateParams::new([name.to_string()]).map_err(ChallengeError::Make)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(ChallengeError::Make)?;
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&key).map_err(ChallengeError::Load)?;
    // Not `from_der`: its look into the certificate stumbles over the extension, which is critical.
    Ok(CertifiedKey::new(chain, key))
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges")
            .field("http", &lock(&self.http).len())
            .field("tls", &lock(&self.tls).len())
            .finish()
    }
}

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(error) => write!(f, "no challenge certificate can be made: {error}"),
            Self::Load(error) => write!(f, "the challenge certificate cannot be used: {error}"),
        }
    }
}

impl std::error::Error for ChallengeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::{extensions::GeneralName, prelude::FromDer};

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn a_challenge_is_shown_for_as_long_as_it_is_kept() {
        let challenges = Arc::new(Challenges::default());
        let http = challenges.show_http("t0ken", "t0ken.thumb");
        let tls = challenges.show_tls(&name("a.example"), &[7; 32]).unwrap();
        assert_eq!(challenges.http_answer("t0ken").as_deref(), Some("t0ken.thumb"));
        assert!(challenges.tls_answer("a.example").is_some());
        assert!(challenges.http_answer("other").is_none() && challenges.tls_answer("b.example").is_none());
        assert!(!format!("{challenges:?}").contains("t0ken"));
        drop((http, tls));
        assert!(challenges.http_answer("t0ken").is_none() && challenges.tls_answer("a.example").is_none());
    }

    #[test]
    fn an_address_is_asked_for_by_its_reverse_name() {
        assert_eq!(&*asked_name(&name("192.0.2.7")), "7.2.0.192.in-addr.arpa");
        assert_eq!(
            &*asked_name(&name("2001:db8::1")),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }

    #[test]
    fn the_certificate_names_one_subject_and_carries_the_proof_as_critical() {
        for (text, octets) in [("a.example", None), ("192.0.2.7", Some([192, 0, 2, 7]))] {
            let made = challenge_certificate(&name(text), &[7; 32]).unwrap();
            let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&made.cert[0]).unwrap();
            let names = parsed.subject_alternative_name().unwrap().unwrap();
            let expected = match &octets {
                Some(octets) => GeneralName::IPAddress(octets),
                None => GeneralName::DNSName(text),
            };
            assert_eq!(names.value.general_names, [expected]);
            let proof = parsed
                .extensions()
                .iter()
                .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
                .unwrap();
            assert!(proof.critical);
            assert_eq!(proof.value, [&[4, 32][..], &[7; 32]].concat());
        }
    }
}
