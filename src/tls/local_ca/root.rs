//! The root of the local CA: kept, published, replaced when it must be, and what it signs.

use std::{fmt, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{self, PrivateKeyDer, UnixTime, pem::PemObject},
};
use time::{Duration, OffsetDateTime, macros::datetime, macros::format_description};
use tracing::{info, warn};

use super::{Machine, ROOT, is_local, permitted::Permitted};
use crate::{
    config::ServerName,
    storage::Storage,
    tls::{
        TlsError,
        certificate::{Certificate, CertificateError},
    },
};

/// The root's certificate and key, in one file because two cannot be replaced at once (K9).
pub(super) const ROOT_KEY: &str = "local-ca/root-key.pem";

const ROOT_LIFE: Duration = Duration::days(3650);
const LEAF_LIFE: Duration = Duration::days(90);

/// How far clients' clocks may lag behind ours.
const BACKDATED: Duration = Duration::hours(1);

/// No clock is earlier than this and right. A board without a clock of its own starts in 1970: a root of
/// that time would have expired when the clock is set.
const EARLIEST: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

/// The root with its key.
pub(super) struct Root {
    pub(super) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    pub(super) permitted: Permitted,
}

impl Root {
    /// The stored root. A new one, if there was none or it cannot vouch for `names` (any longer): then the
    /// old one is kept under a name with the date.
    ///
    /// A root that is there and damaged is an error: a new one would have to be trusted by every device.
    pub(super) fn open(
        storage: &Storage,
        names: &[ServerName],
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Self, TlsError> {
        let Some(pem) = storage.read(ROOT_KEY).map_err(TlsError::Storage)? else {
            if storage.read(ROOT).map_err(TlsError::Storage)?.is_some() {
                return Err(TlsError::RootWithoutKey {
                    root: storage.path(ROOT),
                    key: storage.path(ROOT_KEY),
                });
            }
            let root = Self::make(storage, names, machine, now)?;
            info!(
                file = %storage.path(ROOT).display(),
                fingerprint = root.certificate.fingerprint,
                "made a local CA: devices trust the relay when they trust its root"
            );
            return Ok(root);
        };
        let root =
            Self::from_pem(&pem).map_err(|source| TlsError::Root { file: storage.path(ROOT_KEY), source })?;
        let Some(misfit) = root.misfit(names, now) else {
            Self::publish(storage, &pem)?;
            return Ok(root);
        };
        let format = format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
        let date = now.format(&format).unwrap_or_default();
        let kept = format!("local-ca/old-root-key-{date}.pem");
        storage.write(&kept, &pem).map_err(TlsError::Storage)?;
        let new = Self::make(storage, names, machine, now)?;
        warn!(
            file = %storage.path(ROOT).display(),
            fingerprint = new.certificate.fingerprint,
            old = %storage.path(&kept).display(),
            "made a NEW local CA, because the old one {misfit}: every device has to trust the new root"
        );
        Ok(new)
    }

    /// Makes and stores a root for `names`.
    fn make(
        storage: &Storage,
        names: &[ServerName],
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Self, TlsError> {
        let permitted = Permitted::new(names, is_local(names).then_some(machine));
        let pem = make_root(&permitted, machine, now.max(EARLIEST)).map_err(TlsError::Issue)?;
        let root = Self::from_pem(pem.as_bytes()).map_err(TlsError::Issued)?;
        storage.write(ROOT_KEY, pem.as_bytes()).map_err(TlsError::Storage)?;
        Self::publish(storage, pem.as_bytes())?;
        Ok(root)
    }

    /// The stored root, as it is; `None`: there is none.
    pub(super) fn stored(storage: &Storage) -> Result<Option<Self>, TlsError> {
        let pem = storage.read(ROOT_KEY).map_err(TlsError::Storage)?;
        let root = pem.map(|pem| Self::from_pem(&pem)).transpose();
        root.map_err(|source| TlsError::Root { file: storage.path(ROOT_KEY), source })
    }

    fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        // Checks that they belong together.
        let certificate = Certificate::from_pem(pem, pem)?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateError::Key)?;
        let key = KeyPair::try_from(&key).map_err(CertificateError::Issuer)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(certificate.der(), key).map_err(CertificateError::Issuer)?,
            permitted: Permitted::of_root(certificate.der())?,
            certificate,
        })
    }

    /// Puts the certificate, taken from `pem`, where people find it.
    fn publish(storage: &Storage, pem: &[u8]) -> Result<(), TlsError> {
        let certificate = certificate_section(pem);
        if storage.read(ROOT).map_err(TlsError::Storage)?.as_ref() == Some(&certificate) {
            return Ok(());
        }
        storage.write(ROOT, &certificate).map_err(TlsError::Storage)
    }

    /// Why the root cannot serve `names`.
    pub(super) fn misfit(&self, names: &[ServerName], now: OffsetDateTime) -> Option<String> {
        if now >= self.certificate.not_after {
            return Some("has expired".to_owned());
        }
        let foreign = names.iter().find(|name| !self.permitted.permits(name))?;
        Some(format!("cannot vouch for {foreign}"))
    }

    /// `now`, but not before the root is valid: a clock that lags for a while changes nothing.
    pub(super) fn clock(&self, now: OffsetDateTime) -> OffsetDateTime {
        now.max(self.certificate.not_before)
    }

    /// A new leaf for `names` and its key, in PEM.
    pub(super) fn issue(&self, names: &[ServerName], now: OffsetDateTime) -> Result<String, rcgen::Error> {
        let now = self.clock(now);
        let mut params = CertificateParams::default();
        // No host name: verifiers would hold the common name, too, against the constraints on DNS names.
        params.distinguished_name = common_name("parley-relay server");
        params.not_before = (now - BACKDATED).max(self.certificate.not_before);
        params.not_after = params.not_before + LEAF_LIFE;
        params.subject_alt_names = names.iter().map(alternative_name).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(certificate.pem() + &key.serialize_pem())
    }

    /// Whether a client that trusts this root takes `leaf` for each of `names`.
    pub(super) fn vouches(&self, leaf: &Certificate, names: &[ServerName], now: OffsetDateTime) -> bool {
        let mut roots = RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = roots.add(self.certificate.der().clone()).ok().and_then(|()| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
        });
        let since_epoch = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_epoch));
        verifier.is_some_and(|verifier| {
            names.iter().all(|name| {
                reference_name(name)
                    .is_some_and(|name| verifier.verify_server_cert(leaf.der(), &[], &name, &[], now).is_ok())
            })
        })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("certificate", &self.certificate)
            .field("permitted", &self.permitted)
            .finish_non_exhaustive()
    }
}

/// A root that can vouch for what is `permitted`, and its key, in PEM.
fn make_root(permitted: &Permitted, machine: &Machine, now: OffsetDateTime) -> Result<String, rcgen::Error> {
    let host_name = machine.host_name.as_deref().unwrap_or("this machine");
    let mut params = CertificateParams::default();
    // A common name has 64 characters at most (RFC 5280, appendix A.1); a host name is ASCII here.
    let host_name = host_name.get(..38).unwrap_or(host_name);
    params.distinguished_name = common_name(&format!("parley-relay local CA ({host_name})"));
    params.not_before = now - BACKDATED;
    params.not_after = params.not_before + ROOT_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Where the root is trusted, it is so for web servers only: not for mail, not for programs.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(permitted.to_constraints());
    let key = KeyPair::generate()?;
    Ok(params.self_signed(&key)?.pem() + &key.serialize_pem())
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn alternative_name(name: &ServerName) -> Result<SanType, rcgen::Error> {
    match name {
        ServerName::Dns(name) => Ok(SanType::DnsName(name.to_string().try_into()?)),
        ServerName::Ip(address) => Ok(SanType::IpAddress(*address)),
    }
}

/// The name as a client compares it; `None`: it is one that no client can ask for.
fn reference_name(name: &ServerName) -> Option<pki_types::ServerName<'_>> {
    match name {
        ServerName::Dns(name) => pki_types::ServerName::try_from(&**name).ok(),
        ServerName::Ip(address) => Some((*address).into()),
    }
}

/// The first certificate's lines in `pem`, without what is around them: the key may be there.
fn certificate_section(pem: &[u8]) -> Vec<u8> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let position = |marker: &[u8]| pem.windows(marker.len()).position(|window| window == marker);
    let section = match (position(BEGIN), position(END)) {
        (Some(begin), Some(end)) => pem.get(begin..end + END.len()),
        (None, _) | (_, None) => None,
    };
    [section.unwrap_or_default(), b"\n"].concat()
}
