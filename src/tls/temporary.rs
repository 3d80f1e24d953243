//! The certificate that serves a name until a CA has issued one: in memory alone, and nobody trusts it.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use time::{Duration, OffsetDateTime};

use super::{TlsError, certificate::Certificate};
use crate::config::Subject;

/// As long as it could ever be wanted: a CA may be out of reach for months.
const LIFE: Duration = Duration::days(365);

/// Its issuer. Whoever looks at the browser's warning learns what this is.
pub(super) const ISSUER: &str = "parley-relay, temporary";

/// Makes one.
pub(crate) fn certificate(subject: &Subject, now: OffsetDateTime) -> Result<Certificate, TlsError> {
    let key = KeyPair::generate().map_err(TlsError::Issue)?;
    let mut params = CertificateParams::new([subject.to_string()]).map_err(TlsError::Issue)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, ISSUER);
    params.not_before = now - Duration::HOUR;
    params.not_after = now + LIFE;
    let made = params.self_signed(&key).map_err(TlsError::Issue)?;
    Certificate::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes()).map_err(TlsError::Issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_every_kind_of_name_and_valid_now() {
        let now = OffsetDateTime::now_utc();
        for name in ["a.example", "*.a.example", "192.0.2.7", "2001:db8::1"] {
            let subject = name.parse().unwrap();
            let made = certificate(&subject, now).unwrap();
            assert!(made.is_for(&subject) && made.is_temporary(), "{name}");
            assert!(made.not_before < now && now < made.not_after);
        }
    }
}
