//! `cert` and `key`: there in pairs, readable, and where they are to be served a certificate with its key.

use std::{
    error::Error,
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    config::{
        CertificateSource, Subject,
        error::{Faults, Reason},
        raw::{RawTls, TlsMode},
        setting::Setting,
        source::Place,
    },
    tls::certificate::{Certificate, CertificateError},
};

/// `cert` and `key`, which can be read.
pub(super) struct Pair {
    cert: PathBuf,
    key: PathBuf,
    /// What they are; `None`: they were not tried, or are nothing that can be served.
    certificate: Option<Certificate>,
}

/// `cert` and `key`, when both are there and can be read; in mode `files` they are also tried.
pub(super) fn certificate_files(raw: &RawTls, mode: TlsMode, faults: &mut Faults) -> Option<Pair> {
    let cert = raw.cert.readable("tls.cert", faults);
    let key = raw.key.readable("tls.key", faults);
    match (&raw.cert, &raw.key) {
        (Setting::Given(_, cert_place), Setting::Given(_, key_place)) => {
            let (cert, key) = (cert?, key?);
            let tried =
                (mode == TlsMode::Files).then(|| try_pair((cert, cert_place), (key, key_place), faults));
            Some(Pair { cert: cert.to_owned(), key: key.to_owned(), certificate: tried.flatten() })
        }
        (Setting::Given(_, place), Setting::Absent) => {
            let reason = Reason::Rule("a certificate needs its `key`");
            faults.add("tls.cert", reason, Some(place.clone()));
            None
        }
        (Setting::Absent, Setting::Given(_, place)) => {
            let reason = Reason::Rule("a key needs its `cert`");
            faults.add("tls.key", reason, Some(place.clone()));
            None
        }
        (Setting::Absent | Setting::Faulty, _) | (_, Setting::Faulty) => None,
    }
}

impl Pair {
    /// What is wrong with serving these names by the certificate, if it can be served at all.
    pub(super) fn misfit(&self, subjects: &[Subject]) -> Option<String> {
        let certificate = self.certificate.as_ref()?;
        let missing: Vec<_> = subjects.iter().filter(|subject| !certificate.is_for(subject)).collect();
        let list = |names: Vec<String>| names.join(", ");
        (!missing.is_empty()).then(|| {
            format!(
                "the certificate in {} is for {}, and not for {}: clients that ask for that are refused",
                self.cert.display(),
                list(certificate.names.iter().map(ToString::to_string).collect()),
                list(missing.into_iter().map(ToString::to_string).collect()),
            )
        })
    }

    pub(super) fn into_source(self) -> CertificateSource {
        CertificateSource::Files { cert: self.cert, key: self.key }
    }
}

/// What the files are. Notes a fault when that is no certificate with its key.
fn try_pair(cert: (&Path, &Place), key: (&Path, &Place), faults: &mut Faults) -> Option<Certificate> {
    let (chain, private) = (read("tls.cert", cert, faults), read("tls.key", key, faults));
    let error = match Certificate::from_pem(&chain?, &private?) {
        Ok(certificate) => return Some(certificate),
        Err(error) => error,
    };
    let (name, place) = match &error {
        CertificateError::Key => ("tls.key", key.1),
        CertificateError::NoCertificate
        | CertificateError::Chain(_)
        | CertificateError::X509(_)
        | CertificateError::Mismatch
        | CertificateError::Issuer(_)
        | CertificateError::Unusable(_) => ("tls.cert", cert.1),
    };
    faults.add(name, Reason::Value(Box::new(error)), Some(place.clone()));
    None
}

/// The file's bytes, unless a fault has been noted.
fn read(name: &'static str, (path, place): (&Path, &Place), faults: &mut Faults) -> Option<Vec<u8>> {
    let reason = match fs::read(path) {
        // A SEQUENCE of ASN.1 with a long length (X.690, section 8.1.3.5): no PEM begins like that.
        Ok(bytes) if bytes.starts_with(b"0\x82") || bytes.starts_with(b"0\x81") => {
            Reason::Value(Box::new(Binary))
        }
        Ok(bytes) => return Some(bytes),
        Err(error) => Reason::NamedFile(error),
    };
    faults.add(name, reason, Some(place.clone()));
    None
}

/// A certificate or key that is not in PEM.
#[derive(Debug)]
struct Binary;

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the file is binary (DER or PKCS#12), and PEM is needed: `openssl x509 -inform der` turns a DER \
             certificate into it, `openssl pkey -inform der` a key, `openssl pkcs12 -nodes` a .p12 or .pfx file",
        )
    }
}

impl Error for Binary {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of two files with these contents, each with its key.
    fn faults(mode: TlsMode, cert: &[u8], key: &[u8]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| -> Setting<PathBuf> {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            let source = crate::config::source::Source::new("c.toml", "");
            Setting::Given(path, Place::File(source.into()))
        };
        let raw = RawTls { cert: file("cert", cert), key: file("key", key), ..RawTls::default() };
        let mut faults = Faults::default();
        assert!(certificate_files(&raw, mode, &mut faults).is_some());
        let error = faults.into_result().err();
        error.iter().flat_map(|error| error.faults()).map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_no_certificate_with_its_key_is_told_at_the_file_to_change() {
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let (cert, key) = (cert.as_bytes(), key.as_bytes());
        let other_key = other.signing_key.serialize_pem();
        let der_key = one.signing_key.serialize_der();
        assert_eq!(faults(TlsMode::Files, cert, key), [""; 0]);
        for (cert, key, name, text) in [
            (cert, other_key.as_bytes(), "`tls.cert`", "belongs to another certificate"),
            (one.cert.der().as_ref(), key, "`tls.cert`", "-inform der"),
            (cert, der_key.as_slice(), "`tls.key`", "-inform der"),
            (key, key, "`tls.cert`", "no certificate in PEM"),
            (cert, cert, "`tls.key`", "no whole private key"),
            (b"", b"", "`tls.cert`", "no certificate in PEM"),
        ] {
            let told = faults(TlsMode::Files, cert, key);
            assert!(
                matches!(told.as_slice(), [one] if one.starts_with(name) && one.contains(text)),
                "{text}: {told:?}"
            );
            assert_eq!(faults(TlsMode::SelfSigned, cert, key), [""; 0], "not served, not tried");
        }
    }

    #[test]
    fn a_certificate_for_other_names_is_told_with_its_own() {
        let names = ["a.example".to_owned(), "*.b.example".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let served = || Certificate::from_pem(chain.as_bytes(), key.as_bytes()).ok();
        let told = |certificate: Option<Certificate>, names: &[&str]| {
            let subjects: Vec<Subject> = names.iter().map(|name| name.parse().unwrap()).collect();
            Pair { cert: "cert".into(), key: "key".into(), certificate }.misfit(&subjects)
        };
        assert_eq!(told(served(), &["a.example", "x.b.example", "*.b.example"]), None);
        let text = told(served(), &["a.example", "c.example", "*.example"]).unwrap();
        assert!(text.contains("is for a.example, and not for c.example, *.example:"), "{text}");
        assert_eq!(told(None, &["c.example"]), None, "a fault of its own");
    }
}
