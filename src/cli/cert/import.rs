//! `cert import`: a certificate that another client got, such as certbot's in /etc/letsencrypt/live/NAME.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{Served, StorageArgs, become_owner, refuse};
use crate::{
    acme::{self, Stored},
    cli::answer,
    config::{Environment, ServerName, Subject},
    storage::{Pair, Storage, StorageError},
    tls::certificate::{Certificate, CertificateError, address},
};

/// What `cert import` takes over, and as what.
#[derive(clap::Args)]
pub(super) struct ImportArgs {
    /// A directory with fullchain.pem and privkey.pem
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// A name to keep it for; can be given more than once [default: every name in the certificate]
    #[arg(long, value_name = "NAME")]
    name: Vec<Subject>,

    #[command(flatten)]
    storage: StorageArgs,
}

/// Why a certificate is not taken over.
#[derive(Debug)]
enum ImportError {
    Read {
        file: PathBuf,
        source: io::Error,
    },
    Pair {
        directory: PathBuf,
        source: CertificateError,
    },
    /// Its time is over, or has not come.
    Expired(OffsetDateTime),
    Early(OffsetDateTime),
    /// The certificate is for nothing that is served.
    NoNames,
    /// It is not for this one.
    Name(Subject),
    /// The one that is stored for this name is good for longer.
    Older {
        name: Subject,
        stored: OffsetDateTime,
    },
    Storage(StorageError),
    /// It was looked at, and cannot be stored.
    Import(acme::ImportError),
    /// We cannot act as the owner of the storage directory.
    Owner(io::Error),
}

/// A pair that can be served, and the names that it is to be kept for.
struct Candidate {
    pair: Pair,
    certificate: Certificate,
    names: Vec<Subject>,
}

/// Copies the pair into the storage directory.
pub(super) fn run(arguments: &ImportArgs) -> ExitCode {
    let place = match arguments.storage.place(&Environment::of_process()) {
        Ok(place) => place,
        Err(code) => return code,
    };
    let candidate = match look(&arguments.directory, &arguments.name, OffsetDateTime::now_utc()) {
        Ok(candidate) => candidate,
        Err(error) => return refuse(error),
    };
    if let Some(warning) = place.served.and_then(|served| candidate.serves_nothing(&served)) {
        eprintln!("warning: {warning}");
    }
    match store(&candidate, &place.directory) {
        Ok(()) => answer(&format!(
            "imported for {}, expires {}; a relay that runs for them serves it now\n",
            list(&candidate.names),
            candidate.certificate.not_after.date()
        )),
        Err(error) => refuse(error),
    }
}

/// Reads the pair in `from`, which is to be kept for `names`, or for every name that it has.
fn look(from: &Path, names: &[Subject], now: OffsetDateTime) -> Result<Candidate, ImportError> {
    let read = |name: &str| {
        let file = from.join(name);
        fs::read(&file).map_err(|source| ImportError::Read { file, source })
    };
    let pair = Pair { chain: read("fullchain.pem")?, key: read("privkey.pem")? };
    let certificate = Certificate::from_pem(&pair.chain, &pair.key)
        .map_err(|source| ImportError::Pair { directory: from.to_owned(), source })?;
    if certificate.not_after <= now {
        return Err(ImportError::Expired(certificate.not_after));
    }
    if certificate.not_before > now {
        return Err(ImportError::Early(certificate.not_before));
    }
    let names = if names.is_empty() { subjects(certificate.der()) } else { names.to_vec() };
    if names.is_empty() {
        return Err(ImportError::NoNames);
    }
    if let Some(other) = names.iter().find(|name| !certificate.is_for(name)) {
        return Err(ImportError::Name(other.clone()));
    }
    Ok(Candidate { pair, certificate, names })
}

/// Keeps the pair for each of its names.
fn store(candidate: &Candidate, directory: &Path) -> Result<(), ImportError> {
    let Candidate { pair, certificate, names } = candidate;
    // What was read may be root's alone.
    become_owner(directory).map_err(ImportError::Owner)?;
    let storage = Storage::open(directory).map_err(ImportError::Storage)?;
    // All are looked at before the first is written.
    for name in names {
        let there = Stored::load(&storage, name.clone()).map_err(ImportError::Storage)?;
        if let Some(there) = there.certificate
            && there.not_after > certificate.not_after
        {
            let (name, stored) = (name.clone(), there.not_after);
            return Err(ImportError::Older { name, stored });
        }
    }
    for name in names {
        acme::import(&storage, name, pair).map_err(ImportError::Import)?;
    }
    Ok(())
}

impl Candidate {
    /// What is to be said where the relay of this config has no use for it.
    fn serves_nothing(&self, served: &Served) -> Option<String> {
        let Served { file, subjects } = served;
        // A relay whose files tell the names serves no list of its own.
        if subjects.is_empty() || self.names.iter().any(|name| subjects.contains(name)) {
            return None;
        }
        let (kept, asked, file) = (list(&self.names), list(subjects), file.display());
        let covered: Vec<_> =
            subjects.iter().filter(|subject| self.certificate.is_for(subject)).cloned().collect();
        Some(match covered.first() {
            Some(name) => format!(
                "it is kept for {kept}, and {file} asks for {asked}: nothing will be served with it; \
                 import it with --name {name}, which it covers"
            ),
            None => format!(
                "the certificate is for {kept}, and {file} asks for {asked}: nothing will be served with it; \
                 import one for those names, or add its names to `domains` in [tls]"
            ),
        })
    }
}

fn list(subjects: &[Subject]) -> String {
    let names: Vec<_> = subjects.iter().map(Subject::to_string).collect();
    names.join(", ")
}

/// What a certificate is for, in its order; kinds of names that are not served are left out.
fn subjects(der: &CertificateDer<'_>) -> Vec<Subject> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let mut subjects = Vec::new();
    for name in &extension.value.general_names {
        if let GeneralName::DNSName(name) = name {
            subjects.extend(name.parse::<Subject>());
        } else if let GeneralName::IPAddress(octets) = name {
            subjects.extend(address(octets).map(|address| Subject::Name(ServerName::Ip(address))));
        }
    }
    subjects
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, source } => write!(f, "{} cannot be read: {source}", file.display()),
            Self::Pair { directory, source } => {
                write!(f, "{} holds no certificate with its key: {source}", directory.display())
            }
            Self::Expired(at) => write!(f, "the certificate expired on {}", at.date()),
            Self::Early(at) => write!(f, "the certificate is not valid before {}", at.date()),
            Self::NoNames => f.write_str("the certificate is for no domain and no address"),
            Self::Name(name) => write!(f, "the certificate is not for {name}"),
            Self::Older { name, stored } => write!(
                f,
                "the stored certificate for {name} is valid until {}, longer than this one",
                stored.date()
            ),
            Self::Storage(error) => error.fmt(f),
            Self::Import(error) => error.fmt(f),
            Self::Owner(error) => write!(f, "cannot act as the owner of the storage directory: {error}"),
        }
    }
}

impl std::error::Error for ImportError {}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;
    use time::{Duration, macros::datetime};

    /// Looks at the pair in `from`, and keeps it.
    fn import(
        from: &Path,
        names: &[Subject],
        directory: &Path,
        now: OffsetDateTime,
    ) -> Result<(Vec<Subject>, Certificate), ImportError> {
        let candidate = look(from, names, now)?;
        store(&candidate, directory)?;
        Ok((candidate.names, candidate.certificate))
    }

    const NOW: OffsetDateTime = datetime!(2026-11-01 0:00 UTC);

    /// What certbot keeps of a certificate for `names`: links into an archive.
    fn live(names: &[&str], not_before: OffsetDateTime, not_after: OffsetDateTime) -> TempDir {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        (parameters.not_before, parameters.not_after) = (not_before, not_after);
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        fs::create_dir(&archive).unwrap();
        let chain = parameters.self_signed(&key).unwrap().pem();
        for (name, text) in [("fullchain", chain), ("privkey", key.serialize_pem())] {
            fs::write(archive.join(format!("{name}1.pem")), text).unwrap();
            let link = directory.path().join(format!("{name}.pem"));
            symlink(format!("archive/{name}1.pem"), link).unwrap();
        }
        directory
    }

    fn good(names: &[&str]) -> TempDir {
        live(names, NOW - Duration::days(10), NOW + Duration::days(80))
    }

    fn names(texts: &[&str]) -> Vec<Subject> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_live_directory_is_copied_for_every_name_and_not_renewed_at_once() {
        let (storage, live) =
            (tempfile::tempdir().unwrap(), good(&["a.example", "*.b.example", "192.0.2.7"]));
        let (imported, _) = import(live.path(), &[], storage.path(), NOW).unwrap();
        assert_eq!(imported, names(&["a.example", "*.b.example", "192.0.2.7"]));
        let stored = Storage::at(storage.path());
        for name in &imported {
            let (_, pair) = stored.read_pair(&acme::directory(name)).unwrap().unwrap();
            assert_eq!(pair.chain, fs::read(live.path().join("fullchain.pem")).unwrap());
            assert_eq!(pair.key, fs::read(live.path().join("privkey.pem")).unwrap());
            let renew_at = Stored::load(&stored, name.clone()).unwrap().entry.renew_at.unwrap();
            assert!(renew_at > NOW + Duration::days(40) && renew_at < NOW + Duration::days(80));
        }
        drop(live);
        assert!(stored.read_pair("certificates/_.b.example").unwrap().is_some());
    }

    #[test]
    fn a_name_may_be_chosen_that_the_certificate_covers_and_no_other() {
        let (storage, live) = (tempfile::tempdir().unwrap(), good(&["*.b.example"]));
        let chat = names(&["chat.b.example"]);
        assert_eq!(import(live.path(), &chat, storage.path(), NOW).unwrap().0, chat);
        for other in ["b.example", "x.y.b.example", "*.c.example", "192.0.2.7"] {
            let error = import(live.path(), &names(&[other]), storage.path(), NOW).unwrap_err();
            assert!(matches!(error, ImportError::Name(_)), "{other}: {error}");
        }
        assert_eq!(Storage::at(storage.path()).list("certificates").unwrap(), ["chat.b.example"]);
    }

    #[test]
    fn a_pair_that_cannot_serve_is_refused_with_the_reason_and_stores_nothing() {
        let storage = tempfile::tempdir().unwrap();
        let at = |live: &TempDir| import(live.path(), &[], storage.path(), NOW).unwrap_err();
        let expired = live(&["a.example"], NOW - Duration::days(90), NOW);
        assert!(matches!(at(&expired), ImportError::Expired(_)));
        let early = live(&["a.example"], NOW + Duration::DAY, NOW + Duration::days(90));
        assert!(matches!(at(&early), ImportError::Early(_)));
        assert!(matches!(at(&good(&[])), ImportError::NoNames));
        let (one, other) = (good(&["a.example"]), good(&["a.example"]));
        fs::copy(other.path().join("privkey.pem"), one.path().join("archive/privkey1.pem")).unwrap();
        let error = at(&one);
        assert!(matches!(error, ImportError::Pair { source: CertificateError::Mismatch, .. }), "{error}");
        fs::remove_file(other.path().join("privkey.pem")).unwrap();
        let error = at(&other).to_string();
        assert!(error.contains("privkey.pem cannot be read"), "{error}");
        assert!(Storage::at(storage.path()).list("certificates").unwrap().is_empty());
    }

    #[test]
    fn a_certificate_for_none_of_the_names_that_are_asked_for_is_warned_about() {
        let live = good(&["a.example", "*.b.example"]);
        let told = |kept: &[&str], asked: &[&str]| {
            let served = Served { file: "config.toml".into(), subjects: names(asked) };
            look(live.path(), &names(kept), NOW).unwrap().serves_nothing(&served)
        };
        let other = told(&[], &["chat.example.org", "c.example"]).unwrap();
        assert!(other.contains("is for a.example, *.b.example"), "{other}");
        assert!(other.contains("config.toml asks for chat.example.org, c.example"), "{other}");
        let covered = told(&[], &["chat.b.example"]).unwrap();
        assert!(covered.contains("--name chat.b.example"), "{covered}");
        assert_eq!(told(&["chat.b.example"], &["chat.b.example"]), None);
        assert_eq!(told(&[], &["chat.example.org", "a.example"]), None);
        assert_eq!(told(&[], &["*.b.example"]), None);
        assert_eq!(told(&[], &[]), None, "the files of a config tell the names");
    }

    #[test]
    fn a_stored_certificate_that_lasts_longer_is_kept() {
        let storage = tempfile::tempdir().unwrap();
        let newer = good(&["a.example"]);
        import(newer.path(), &[], storage.path(), NOW).unwrap();
        let older = live(&["b.example", "a.example"], NOW - Duration::DAY, NOW + Duration::days(30));
        let error = import(older.path(), &[], storage.path(), NOW).unwrap_err();
        assert!(matches!(error, ImportError::Older { .. }), "{error}");
        // The same again is no older.
        import(newer.path(), &[], storage.path(), NOW).unwrap();
        assert_eq!(Storage::at(storage.path()).list("certificates").unwrap(), ["a.example"]);
    }
}
