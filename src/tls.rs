//! TLS towards clients: how a handshake goes, and where its certificates come from.

pub(crate) mod certificates;
mod files;
pub(crate) mod local_ca;
mod temporary;

use std::{fmt, io, panic, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets},
};
use time::OffsetDateTime;
use tracing::{error, info, warn};

use crate::{
    acme::{self, Challenges, Otherwise, challenges::ACME_TLS},
    config::{self, AcmeConfig, CertificateSource},
    storage::{Storage, StorageError},
};
pub(crate) use certificates::Certificates;
use certificates::{Certificate, CertificateError};
use files::{PemPair, Watch};
use local_ca::{LocalCa, Machine};

/// Makes aws-lc-rs the process's cryptography. The first thing that `main` does.
pub(crate) fn install_provider() {
    // An error means that there is one already: ours, from an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The keys that session tickets are sealed with. One for the whole process: sessions outlive reloads.
pub(crate) fn ticketer() -> Result<Arc<dyn ProducesTickets>, TlsError> {
    Ticketer::new().map_err(TlsError::Tickets)
}

/// How handshakes with clients go: TLS 1.2 and 1.3, X25519MLKEM768 before other groups, HTTP/2 before 1.1.
///
/// No early data: it can be replayed. No certificate compression: our chains are short.
pub(crate) fn server_config(
    certificates: Arc<Certificates>,
    ticketer: Arc<dyn ProducesTickets>,
) -> ServerConfig {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
    // The last is a CA's that comes for a proof: `Certificates` answers it, and nothing is spoken after that.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
    // Every cipher suite on offer is sound, and a phone without AES in hardware knows why it prefers ChaCha20.
    config.ignore_client_order = false;
    config.ticketer = ticketer;
    // Sessions live in tickets alone: nothing is kept for a client that is gone.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// Whether somebody else keeps the certificates until we do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Predecessor {
    /// What we cannot have now we cannot have.
    None,
    /// The process before, or the configuration before: it lets go once we are there.
    Running,
}

/// What keeps the certificates that are served up to date.
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
    ) -> Result<(Arc<Certificates>, Self), TlsError> {
        let now = OffsetDateTime::now_utc();
        let (source, first) = match &tls.certificates {
            CertificateSource::Files { cert, key } => {
                let (watch, first) = Watch::open(PemPair { cert: cert.clone(), key: key.clone() })?;
                warn_of_misfits(&first, tls, now);
                (Source::Files(Box::new(watch)), first)
            }
            CertificateSource::LocalCa => {
                let storage = Storage::open(&tls.storage).map_err(TlsError::Storage)?;
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
    ) -> Result<(Arc<Certificates>, Self), TlsError> {
        let storage = Storage::open(&tls.storage).map_err(TlsError::Storage)?;
        let challenges = Arc::new(Challenges::default());
        let manager = acme::Manager::open(&storage, config, Arc::clone(&challenges), predecessor)
            .map_err(TlsError::Acme)?;
        let mut local = config.local.clone();
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
            if otherwise == Otherwise::LocalCa {
                local.extend(stored.subject.as_name().cloned());
            }
        }
        let own = if local.is_empty() {
            None
        } else {
            let ca = LocalCa::open(storage, local, &Machine::current(), now)?;
            let place = places.len();
            log_certificate(ca.leaf());
            places.push(Some(Arc::clone(ca.leaf())));
            let source = Source::LocalCa(Box::new(ca));
            Some(Own { source, place })
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
    info!(
        fingerprint = certificate.fingerprint,
        expires = acme::moment(certificate.not_after),
        "certificate"
    );
}

/// Tells what a certificate that we did not make lacks: browsers will complain, we serve it all the same.
fn warn_of_misfits(certificate: &Certificate, tls: &config::Tls, now: OffsetDateTime) {
    for name in &tls.names {
        if !certificate.covers(name) {
            warn!("the certificate is not for {name}");
        }
    }
    if now >= certificate.not_after {
        warn!("the certificate has expired: {}", certificate.not_after);
    } else if now < certificate.not_before {
        warn!("the certificate is not valid yet, or the clock is wrong: {}", certificate.not_before);
    }
}

/// Why there is no certificate to serve.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// A PEM file cannot be read.
    Read { file: PathBuf, source: io::Error },
    /// The PEM files are no pair.
    Pair { cert: PathBuf, key: PathBuf, source: CertificateError },
    /// The storage directory fails.
    Storage(StorageError),
    /// Nothing can be kept that a CA issues.
    Acme(acme::ManagerError),
    /// The local CA's root is there and cannot be used.
    Root { file: PathBuf, source: CertificateError },
    /// The local CA's root is there without its key.
    RootWithoutKey { root: PathBuf, key: PathBuf },
    /// A certificate of our own cannot be made.
    Issue(rcgen::Error),
    /// The same, found when it was read back.
    Issued(CertificateError),
    /// No randomness for session tickets.
    Tickets(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NEW_ROOT: &str = "restore it from a backup, or move its directory away: \
                                the relay then makes a new root, which every device has to trust anew";
        match self {
            Self::Read { file, source } => write!(
                f,
                "{} cannot be read: {source}; it must be there, and readable for the relay's user",
                file.display()
            ),
            Self::Pair { cert, key, source } => write!(
                f,
                "{} and {} are no certificate with its key: {source}",
                cert.display(),
                key.display()
            ),
            Self::Storage(error) => error.fmt(f),
            Self::Acme(error) => error.fmt(f),
            Self::Root { file, source } => {
                write!(f, "the local CA's root in {} cannot be used: {source}; {NEW_ROOT}", file.display())
            }
            Self::RootWithoutKey { root, key } => write!(
                f,
                "the local CA's root {} is there, but its key {} is not; {NEW_ROOT}",
                root.display(),
                key.display()
            ),
            Self::Issue(error) => write!(f, "no certificate can be made: {error}"),
            Self::Issued(error) => write!(f, "no certificate can be made: {error}"),
            Self::Tickets(error) => write!(f, "no keys for session tickets: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServerName, UnknownNames};
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
        ServerConnection, SupportedProtocolVersion,
        pki_types::{self, CertificateDer, pem::PemObject},
        version::{TLS12, TLS13},
    };
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

    /// A client that trusts the root in `storage`.
    fn client(storage: &Path, version: &'static SupportedProtocolVersion, alpn: &[&str]) -> ClientConfig {
        let root = CertificateDer::from_pem_file(storage.join(local_ca::ROOT)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let mut config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Hands bytes from one side to the other until neither has any.
    fn shake(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        name: &str,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let name = pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        loop {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &*bytes;
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer).unwrap();
            }
            let mut rest = &*answer;
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
            if bytes.is_empty() && answer.is_empty() {
                return Ok((client, server));
            }
        }
    }

    #[test]
    fn a_client_that_trusts_the_root_reaches_every_name_with_either_version() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let names = ["chat.lan", "chat.example.org", "192.168.1.20", "fd00::20", "203.0.113.7"];
        let (certificates, _keeper) =
            Keeper::open(&config(storage.path(), &names), Predecessor::None).unwrap();
        assert_eq!(certificates.first_name(), Some("chat.lan".parse().unwrap()));
        let server = Arc::new(server_config(certificates, ticketer().unwrap()));
        for version in [&TLS12, &TLS13] {
            let client = Arc::new(client(storage.path(), version, &["http/1.1", "h2"]));
            for name in names.iter().chain(&["localhost", "127.0.0.1", "::1"]) {
                let (client, _) = shake(&client, &server, name).unwrap();
                assert!(!client.is_handshaking());
                assert_eq!(client.protocol_version(), Some(version.version), "{name}");
                assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]), "{name}");
            }
        }
    }

    #[test]
    fn the_post_quantum_group_is_used_and_sessions_resume_over_a_reload() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let tls = config(storage.path(), &["chat.lan"]);
        let ticketer = ticketer().unwrap();
        let load = || {
            let (certificates, _keeper) = Keeper::open(&tls, Predecessor::None).unwrap();
            Arc::new(server_config(certificates, Arc::clone(&ticketer)))
        };
        for version in [&TLS12, &TLS13] {
            let server = load();
            let client = Arc::new(client(storage.path(), version, &["h2"]));
            let (first, _) = shake(&client, &server, "chat.lan").unwrap();
            assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
            if version.version == ProtocolVersion::TLSv1_3 {
                let group = first.negotiated_key_exchange_group().unwrap();
                assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
            }
            let (second, _) = shake(&client, &load(), "chat.lan").unwrap();
            assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
    }

    #[test]
    fn t1_unknown_names_and_protocols_get_an_alert() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let (certificates, _keeper) =
            Keeper::open(&config(storage.path(), &["chat.lan"]), Predecessor::None).unwrap();
        let server = Arc::new(server_config(certificates, ticketer().unwrap()));
        assert_eq!(server.max_early_data_size, 0);
        let h2 = Arc::new(client(storage.path(), &TLS13, &["h2"]));
        assert!(shake(&h2, &server, "evil.example").is_err());
        let other = Arc::new(client(storage.path(), &TLS13, &["smtp"]));
        assert!(shake(&other, &server, "chat.lan").is_err());
        let none = Arc::new(client(storage.path(), &TLS13, &[]));
        assert_eq!(shake(&none, &server, "chat.lan").unwrap().0.alpn_protocol(), None);
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

    /// Of a config file's `[tls]` table with this in it.
    fn acme(storage: &Path, keys: &str) -> config::Tls {
        let file = storage.join("config.toml");
        fs::write(&file, format!("version = 1\n[tls]\nstorage = {storage:?}\n{keys}")).unwrap();
        let environment = config::Environment::of_process();
        let loaded = config::load(Some(&file), &config::Flags::default(), &environment).unwrap();
        loaded.config.tls.unwrap()
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

    #[test]
    fn a_ca_that_comes_for_a_proof_gets_it_and_everybody_else_their_certificate() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let challenges = Arc::new(Challenges::default());
        let now = OffsetDateTime::now_utc();
        let temporary = temporary::certificate(&"chat.example.org".parse().unwrap(), now).unwrap();
        let places = vec![Some(Arc::new(temporary))];
        let certificates = Certificates::new(places, None, UnknownNames::Default, Arc::clone(&challenges));
        let server = Arc::new(server_config(Arc::new(certificates), ticketer().unwrap()));
        fs::create_dir(storage.path().join("local-ca")).unwrap();
        let root = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap();
        fs::write(storage.path().join(local_ca::ROOT), root.cert.pem()).unwrap();
        let comes = |alpn: &[&str]| {
            let client = Arc::new(client(storage.path(), &TLS13, alpn));
            shake(&client, &server, "chat.example.org").map(drop)
        };
        // What the client says of a certificate that it does not take, against our alert.
        let refuses =
            |result: Result<(), rustls::Error>| matches!(result, Err(rustls::Error::InvalidCertificate(_)));
        let alert = |result: Result<(), rustls::Error>| {
            matches!(result, Err(rustls::Error::General(_) | rustls::Error::NoCertificatesPresented))
        };
        assert!(alert(comes(&["acme-tls/1"])));
        let _shown = challenges.show_tls(&"chat.example.org".parse().unwrap(), &[7; 32]).unwrap();
        assert!(refuses(comes(&["acme-tls/1"])));
        assert!(refuses(comes(&["h2"])));
    }
}
