//! What keeps the certificates that are served up to date, wherever they come from: files, the local CA, CAs that speak ACME.

use std::{fmt, panic, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tracing::{error, info, warn};

use crate::{
    acme::{self, Otherwise},
    config::{self, AcmeConfig, CertificateSource},
    moment::moment,
    storage::Storage,
    tls::{
        Certificates, Predecessor, TlsError,
        certificate::Certificate,
        challenges::Challenges,
        files::{PemPair, Watch},
        local_ca::{LocalCa, Machine},
        temporary,
    },
};

/// Of one configuration.
#[derive(Debug)]
pub(crate) struct Keeper {
    certificates: Arc<Certificates>,
    /// What needs nobody else: files, and the local CA.
    own: Option<Own>,
    acme: Option<acme::Manager>,
}

/// A source of one certificate that is looked at from time to time.
#[derive(Debug)]
struct Own {
    source: Source,
    /// Where its certificate belongs among all that are served.
    place: usize,
}

#[derive(Debug)]
enum Source {
    Files(Box<Watch>),
    LocalCa(Box<LocalCa>),
}

impl Keeper {
    /// Loads or makes the first certificates. Asks nobody: what a CA has to issue comes later.
    pub(crate) fn open(
        tls: &config::Tls,
        predecessor: Predecessor,
    ) -> Result<(Arc<Certificates>, Self), KeeperError> {
        let now = OffsetDateTime::now_utc();
        let (source, first) = match &tls.certificates {
            CertificateSource::Files { cert, key } => {
                let (watch, first) = Watch::open(PemPair { cert: cert.clone(), key: key.clone() })?;
                warn_of_its_time(&first, now);
                (Source::Files(Box::new(watch)), first)
            }
            CertificateSource::LocalCa => {
                let storage = Storage::open(&tls.storage)
                    .map_err(|error| KeeperError::Tls(TlsError::Storage(error)))?;
                let ca = LocalCa::open(storage, tls.names.clone(), &Machine::current(), now)?;
                let first = Arc::clone(ca.leaf());
                (Source::LocalCa(Box::new(ca)), first)
            }
            CertificateSource::Acme(config) => return Self::open_acme(tls, config, predecessor, now),
        };
        log_certificate(&first);
        let certificates = Arc::new(Certificates::one(first, tls.unknown_names));
        let keeper =
            Self { certificates: Arc::clone(&certificates), own: Some(Own { source, place: 0 }), acme: None };
        Ok((certificates, keeper))
    }

    /// A place for each name that a CA issues for, in the order of the config, and the local CA's leaf behind
    /// them: it serves the names of its own, and as a fallback those whose place is empty.
    fn open_acme(
        tls: &config::Tls,
        config: &AcmeConfig,
        predecessor: Predecessor,
        now: OffsetDateTime,
    ) -> Result<(Arc<Certificates>, Self), KeeperError> {
        let storage =
            Storage::open(&tls.storage).map_err(|error| KeeperError::Tls(TlsError::Storage(error)))?;
        let challenges = Arc::new(Challenges::default());
        let manager = acme::Manager::open(&storage, config, Arc::clone(&challenges), predecessor)
            .map_err(KeeperError::Acme)?;
        let mut places = Vec::new();
        for (stored, otherwise) in manager.stored() {
            let certificate = stored.servable(otherwise, now);
            if let Some(certificate) = &certificate {
                log_certificate(certificate);
            }
            places.push(match (certificate, otherwise) {
                (Some(certificate), _) => Some(certificate),
                (None, Otherwise::LocalCa) => None,
                (None, Otherwise::Temporary) => {
                    info!(name = %stored.subject, "a temporary certificate serves until the CA has issued one");
                    Some(Arc::new(temporary::certificate(&stored.subject, now)?))
                }
            });
        }
        let own = if let Some(local) = tls.local_names() {
            let ca = LocalCa::open(storage, local, &Machine::current(), now)?;
            let place = places.len();
            log_certificate(ca.leaf());
            places.push(Some(Arc::clone(ca.leaf())));
            let source = Source::LocalCa(Box::new(ca));
            Some(Own { source, place })
        } else {
            None
        };
        let first_name = tls.names.first().cloned();
        let certificates = Arc::new(Certificates::new(places, first_name, tls.unknown_names, challenges));
        let keeper = Self { certificates: Arc::clone(&certificates), own, acme: Some(manager) };
        Ok((certificates, keeper))
    }

    /// Keeps the certificates up to date for as long as the process lives.
    pub(crate) async fn run(self) {
        let Self { certificates, own, acme } = self;
        tokio::select! {
            Some(()) = run_if_there(own.map(|own| own.run(Arc::clone(&certificates)))) => {}
            Some(()) = run_if_there(acme.map(|acme| acme.run(Arc::clone(&certificates)))) => {}
            else => std::future::pending().await,
        }
    }
}

async fn run_if_there(task: Option<impl Future<Output = ()>>) -> Option<()> {
    match task {
        Some(task) => {
            task.await;
            Some(())
        }
        None => None,
    }
}

impl Own {
    async fn run(mut self, certificates: Arc<Certificates>) {
        loop {
            // Short turns that look at the wall clock, and no timer until the day of renewal: a clock that
            // jumps, or a machine that slept, is noticed at the next turn (K10).
            tokio::time::sleep(self.interval()).await;
            let turn = tokio::task::spawn_blocking(move || {
                let found = self.look(OffsetDateTime::now_utc());
                (self, found)
            });
            let found;
            (self, found) = match turn.await.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(turn) => turn,
                Err(Ok(panicked)) => panic::resume_unwind(panicked),
                // The runtime is shutting down.
                Err(Err(_)) => return,
            };
            if let Some(certificate) = found {
                certificates.put(self.place, Some(certificate));
            }
        }
    }

    fn interval(&self) -> Duration {
        match self.source {
            Source::Files(_) => Duration::from_secs(2),
            // For addresses that the machine has newly got; the leaf alone would need a look a day.
            Source::LocalCa(_) => Duration::from_secs(60),
        }
    }

    /// A new certificate, if there is one. What fails is logged and the old one stays.
    fn look(&mut self, now: OffsetDateTime) -> Option<Arc<Certificate>> {
        match &mut self.source {
            Source::Files(watch) => watch.poll(),
            Source::LocalCa(ca) => ca.renew(&Machine::current(), now).unwrap_or_else(|error| {
                error!("the certificate is not renewed: {error}");
                None
            }),
        }
    }
}

fn log_certificate(certificate: &Certificate) {
    info!(fingerprint = certificate.fingerprint, expires = moment(certificate.not_after), "certificate");
}

/// Tells of a certificate that we did not make: browsers will complain, we serve it all the same.
fn warn_of_its_time(certificate: &Certificate, now: OffsetDateTime) {
    if now >= certificate.not_after {
        warn!("the certificate has expired: {}", certificate.not_after);
    } else if now < certificate.not_before {
        warn!("the certificate is not valid yet, or the clock is wrong: {}", certificate.not_before);
    }
}

/// Why there is no certificate to serve.
#[derive(Debug)]
pub(crate) enum KeeperError {
    Tls(TlsError),
    /// Nothing can be kept that a CA issues.
    Acme(acme::ManagerError),
}

impl From<TlsError> for KeeperError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl fmt::Display for KeeperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Acme(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeeperError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ServerName, UnknownNames},
        tls::{
            install_provider, server_config,
            testing::{client, shake},
            ticketer,
        },
    };
    use rustls::version::TLS13;
    use std::{fs, path::Path};

    fn config(storage: &Path, names: &[&str]) -> config::Tls {
        config::Tls {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            certificates: CertificateSource::LocalCa,
            storage: storage.to_owned(),
            unknown_names: UnknownNames::Reject,
            hsts: None,
        }
    }

    #[test]
    fn a_new_pair_of_files_is_served_without_a_restart_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let put = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            fs::write(&cert, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        };
        put("a.example");
        let mut tls = config(directory.path(), &["a.example"]);
        tls.certificates = CertificateSource::Files { cert: cert.clone(), key: key.clone() };
        let (certificates, keeper) = Keeper::open(&tls, Predecessor::None).unwrap();
        let mut own = keeper.own.unwrap();
        let mut look = || {
            for _ in 0..3 {
                if let Some(found) = own.look(OffsetDateTime::now_utc()) {
                    certificates.put(own.place, Some(found));
                }
            }
        };
        let serves = |name: &str| certificates.is_for(&name.parse::<ServerName>().unwrap());
        assert!(serves("a.example"));
        put("b.example");
        look();
        assert!(serves("b.example") && !serves("a.example"));
        fs::write(&key, "junk").unwrap();
        look();
        assert!(serves("b.example"));
    }

    #[test]
    fn every_name_is_served_at_once_whatever_a_ca_does_and_local_ones_by_the_local_ca() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let domains = "domains = ['chat.lan', 'chat.example.org', '*.example.net', '192.168.1.20']";
        let (certificates, keeper) = Keeper::open(&acme(storage.path(), domains), Predecessor::None).unwrap();
        assert!(keeper.acme.is_some() && keeper.own.is_some());
        let server = Arc::new(server_config(Arc::clone(&certificates), ticketer().unwrap()));
        let client = Arc::new(client(storage.path(), &TLS13, &["h2"]));
        for local in ["chat.lan", "192.168.1.20"] {
            assert!(shake(&client, &server, local).is_ok(), "{local}");
        }
        // Temporary ones: served, and trusted by nobody.
        for public in ["chat.example.org", "www.example.net"] {
            assert!(shake(&client, &server, public).is_err(), "{public}");
            assert!(certificates.serves(&public.parse().unwrap()), "{public}");
        }
        assert_eq!(certificates.first_name(), Some("chat.lan".parse().unwrap()));
    }

    #[test]
    fn a_fallback_is_the_local_ca_until_there_is_a_certificate_and_that_wins() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let keys = "domains = ['chat.example.org']\n[tls.acme]\nfallback = 'self-signed'";
        let tls = acme(storage.path(), keys);
        let (certificates, _keeper) = Keeper::open(&tls, Predecessor::None).unwrap();
        let server = Arc::new(server_config(Arc::clone(&certificates), ticketer().unwrap()));
        // A client that has been there would resume its session.
        let new_client = || Arc::new(client(storage.path(), &TLS13, &["h2"]));
        assert!(shake(&new_client(), &server, "chat.example.org").is_ok());
        let public = temporary::certificate(&"chat.example.org".parse().unwrap(), OffsetDateTime::now_utc());
        certificates.put(0, Some(Arc::new(public.unwrap())));
        assert!(shake(&new_client(), &server, "chat.example.org").is_err());
        certificates.put(0, None);
        assert!(shake(&new_client(), &server, "chat.example.org").is_ok());
    }

    #[test]
    fn a_stored_certificate_serves_after_a_restart_and_a_second_process_starts_too() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let tls = acme(storage.path(), "domains = ['chat.example.org']");
        let made = rcgen::generate_simple_self_signed(["chat.example.org".to_owned()]).unwrap();
        let pair = crate::storage::Pair {
            chain: made.cert.pem().into(),
            key: made.signing_key.serialize_pem().into(),
        };
        let subject = "chat.example.org".parse().unwrap();
        let stored = acme::import(&Storage::open(storage.path()).unwrap(), &subject, &pair).unwrap();
        let (_, first) = Keeper::open(&tls, Predecessor::None).unwrap();
        let (_, second) = Keeper::open(&tls, Predecessor::None).unwrap();
        let expected = stored.certificate.map(|certificate| certificate.fingerprint.clone());
        let fingerprint =
            |keeper: &Keeper| keeper.certificates.first().map(|first| first.fingerprint.clone());
        assert_eq!((fingerprint(&first), fingerprint(&second)), (expected.clone(), expected));
    }

    /// Of a config file's `[tls]` table with this in it.
    fn acme(storage: &Path, keys: &str) -> config::Tls {
        let file = storage.join("config.toml");
        fs::write(&file, format!("version = 1\n[tls]\nstorage = {storage:?}\n{keys}")).unwrap();
        let environment = config::Environment::of_process();
        let loaded = config::load(Some(&file), &config::Flags::default(), &environment).unwrap();
        loaded.config.tls.unwrap()
    }
}
