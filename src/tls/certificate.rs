//! One certificate with its key: read from PEM, and what it says of itself.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use aws_lc_rs::digest;
use rustls::{
    InconsistentKeys,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate, error::X509Error, extensions::GeneralName, prelude::FromDer,
};

use super::temporary;
use crate::config::{ServerName, Subject};

/// A certificate chain with its key, and what the leaf says of itself.
pub(crate) struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// The DNS names and addresses of the subject alternative names, in their order.
    pub(crate) names: Vec<ServerName>,
    /// `example.org` for each `*.example.org` among them.
    pub(super) wildcards: Vec<Box<str>>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// SHA-256 of the leaf, as browsers show it: `AB:CD:…`.
    pub(crate) fingerprint: String,
    /// Who signed it: organisation and common name.
    pub(crate) issuer: String,
}

/// The life of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Validity {
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Validity {
    pub(crate) fn lifetime(self) -> time::Duration {
        self.not_after - self.not_before
    }
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
            issuer: issuer(&parsed),
        })
    }

    /// From when until when it is valid.
    pub(crate) fn validity(&self) -> Validity {
        Validity { not_before: self.not_before, not_after: self.not_after }
    }

    /// Whether it is what was asked for: for a wildcard, one with that very wildcard.
    pub(crate) fn is_for(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Name(name) => self.covers(name),
            Subject::Wildcard(parent) => self.wildcards.contains(parent),
        }
    }

    /// Whether a client that asked for `name` takes it.
    pub(crate) fn covers(&self, name: &ServerName) -> bool {
        self.names.contains(name)
            || matches!(name, ServerName::Dns(name) if name.split_once('.').is_some_and(
                |(_, parent)| self.wildcards.iter().any(|wildcard| **wildcard == *parent)
            ))
    }

    /// Whether it only stands for one that a CA is to issue.
    pub(crate) fn is_temporary(&self) -> bool {
        self.issuer == temporary::ISSUER
    }

    /// All that it is for, wildcards too, as text.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = String> {
        let wildcards = self.wildcards.iter().map(|parent| format!("*.{parent}"));
        self.names.iter().map(ToString::to_string).chain(wildcards)
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

/// SHA-256 in upper-case hexadecimal with colons.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    let bytes: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

pub(crate) fn issuer(certificate: &X509Certificate<'_>) -> String {
    let issuer = certificate.issuer();
    let parts = issuer.iter_organization().chain(issuer.iter_common_name());
    let parts: Vec<_> = parts.filter_map(|part| part.as_str().ok()).collect();
    parts.join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed PEM certificate for a.example, and its key.
    fn pem() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_is_no_pair_is_told_apart() {
        let (chain, key) = pem();
        let (_, other) = pem();
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
        let (chain, key) = pem();
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
