//! The certificates on disk, each with its page of the ledger.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::warn;

use super::{
    ledger::{self, Entry},
    schedule,
};
use crate::{
    config::{Subject, acme::Fallback},
    storage::{Generation, Pair, Storage, StorageError},
    tls::certificate::{Certificate, CertificateError, Validity},
};

/// What is stored for one name.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) subject: Subject,
    pub(crate) entry: Entry,
    /// `None`: there is none yet, or none that can be served.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// Which pair `certificate` was read from.
    pub(super) generation: Option<Generation>,
}

/// Why a pair is not taken in.
#[derive(Debug)]
pub(crate) enum ImportError {
    Pair(CertificateError),
    /// The certificate is for other names.
    WrongName(Subject),
    Storage(StorageError),
}

/// Everything that is stored, by name.
pub(crate) fn stored(storage: &Storage) -> Result<Vec<Stored>, StorageError> {
    let names = storage.list(ledger::CERTIFICATES)?;
    let subjects = names.iter().filter_map(|name| ledger::subject(name));
    subjects.map(|subject| Stored::load(storage, subject)).collect()
}

/// Stores a pair that came from elsewhere; the relay renews it when it is due.
pub(crate) fn import(storage: &Storage, subject: &Subject, pair: &Pair) -> Result<Stored, ImportError> {
    let certificate = Certificate::from_pem(&pair.chain, &pair.key).map_err(ImportError::Pair)?;
    if !certificate.is_for(subject) {
        return Err(ImportError::WrongName(subject.clone()));
    }
    let write = || -> Result<Stored, StorageError> {
        storage.write_pair(&ledger::directory(subject), pair)?;
        // What was tried before is of no account for this certificate.
        Entry::default().store(storage, subject)?;
        Stored::load(storage, subject.clone())
    };
    write().map_err(ImportError::Storage)
}

/// Asks the relay that runs on this storage to renew `subject`'s certificate now, whatever its ledger says.
pub(crate) fn request_renewal(storage: &Storage, subject: &Subject) -> Result<(), StorageError> {
    storage.write(&request(subject), b"")
}

/// Whether somebody asked for a renewal since the last call.
pub(super) fn take_request(storage: &Storage, subject: &Subject) -> bool {
    let file = request(subject);
    // Asked once: a request that cannot be removed would be one at every turn.
    storage.path(&file).exists() && storage.remove(&file).is_ok()
}

fn request(subject: &Subject) -> String {
    format!("{}/renew", ledger::directory(subject))
}

impl Stored {
    /// What is stored for `subject`, read anew.
    pub(crate) fn load(storage: &Storage, subject: Subject) -> Result<Self, StorageError> {
        let mut entry = Entry::load(storage, &subject)?;
        let found = storage.read_pair(&ledger::directory(&subject))?;
        let (generation, certificate) = match found {
            Some((generation, pair)) => (Some(generation), servable(&subject, &pair)),
            None => (None, None),
        };
        if let (None, Some(certificate)) = (entry.renew_at, &certificate) {
            // Imported, or its page was lost.
            entry.renew_at = Some(schedule::renewal(certificate.validity(), 0.0));
        }
        Ok(Self { subject, entry, certificate: certificate.map(Arc::new), generation })
    }

    pub(crate) fn validity(&self) -> Option<Validity> {
        self.certificate.as_ref().map(|certificate| certificate.validity())
    }

    /// Whether its certificate has not expired.
    pub(crate) fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.validity().is_some_and(|validity| now < validity.not_after)
    }

    /// The certificate to serve: also one that has expired, unless `otherwise` there is a better one.
    pub(crate) fn servable(&self, otherwise: Otherwise, now: OffsetDateTime) -> Option<Arc<Certificate>> {
        let certificate = self.certificate.as_ref()?;
        match otherwise {
            Otherwise::LocalCa if !self.is_valid(now) => None,
            Otherwise::LocalCa | Otherwise::Temporary => Some(Arc::clone(certificate)),
        }
    }
}

/// What serves a name that has no certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Otherwise {
    /// The local CA's leaf, which those take who trust its root.
    LocalCa,
    /// One that nobody takes.
    Temporary,
}

impl Otherwise {
    /// What the configuration says for this name. The local CA makes no wildcards.
    pub(super) fn new(fallback: Option<Fallback>, subject: &Subject) -> Self {
        match (fallback, subject) {
            (Some(Fallback::SelfSigned), Subject::Name(_)) => Self::LocalCa,
            (Some(Fallback::SelfSigned), Subject::Wildcard(_)) | (None, _) => Self::Temporary,
        }
    }
}

/// The certificate in `pair`, if it can be served for `subject`.
fn servable(subject: &Subject, pair: &Pair) -> Option<Certificate> {
    match Certificate::from_pem(&pair.chain, &pair.key) {
        Ok(certificate) if certificate.is_for(subject) => Some(certificate),
        Ok(_) => {
            warn!(name = %subject, "the stored certificate is for another name, and is not used");
            None
        }
        Err(error) => {
            warn!(name = %subject, "the stored certificate is not used: {error}");
            None
        }
    }
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pair(error) => error.fmt(f),
            Self::WrongName(subject) => write!(f, "the certificate is not for {subject}"),
            Self::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pair(error) => Some(error),
            Self::Storage(error) => Some(error),
            Self::WrongName(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> Pair {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Pair { chain: made.cert.pem().into(), key: made.signing_key.serialize_pem().into() }
    }

    #[test]
    fn a_certificate_from_elsewhere_is_listed_and_has_a_day_of_renewal() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        assert!(stored(&storage).unwrap().is_empty());
        for name in ["b.example", "*.a.example"] {
            import(&storage, &name.parse().unwrap(), &pair(name)).unwrap();
        }
        let other = import(&storage, &"c.example".parse().unwrap(), &pair("a.example"));
        assert!(matches!(other, Err(ImportError::WrongName(_))));
        let all = stored(&storage).unwrap();
        let names: Vec<_> = all.iter().map(|stored| stored.subject.to_string()).collect();
        assert_eq!(names, ["*.a.example", "b.example"]);
        assert!(all.iter().all(|stored| stored.entry.renew_at.is_some() && stored.certificate.is_some()));
    }

    #[test]
    fn a_damaged_pair_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let (mut first, second) = (pair("a.example"), pair("a.example"));
        first.key = second.key;
        storage.write_pair("certificates/a.example", &first).unwrap();
        let loaded = Stored::load(&storage, "a.example".parse().unwrap()).unwrap();
        assert!(loaded.certificate.is_none() && loaded.generation.is_some());
    }

    #[test]
    fn a_certificate_that_has_expired_serves_where_there_is_nothing_better() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let subject: Subject = "a.example".parse().unwrap();
        let stored = import(&storage, &subject, &pair("a.example")).unwrap();
        let expired = stored.certificate.as_ref().unwrap().not_after;
        let valid = expired - time::Duration::SECOND;
        let (local, temporary) = (Otherwise::LocalCa, Otherwise::Temporary);
        assert!(stored.servable(local, valid).is_some() && stored.servable(temporary, valid).is_some());
        assert!(stored.servable(local, expired).is_none() && stored.servable(temporary, expired).is_some());
        assert_eq!(Otherwise::new(Some(Fallback::SelfSigned), &subject), local);
        let wildcard = "*.a.example".parse().unwrap();
        assert_eq!(Otherwise::new(Some(Fallback::SelfSigned), &wildcard), temporary);
        assert_eq!(Otherwise::new(None, &subject), temporary);
    }

    #[test]
    fn a_request_to_renew_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let subject = "a.example".parse().unwrap();
        assert!(!take_request(&storage, &subject));
        request_renewal(&storage, &subject).unwrap();
        assert!(take_request(&storage, &subject));
        assert!(!take_request(&storage, &subject));
    }
}
