//! TLS towards clients: how a handshake goes, and the certificates for it.

pub(crate) mod certificate;
pub(crate) mod certificates;
pub(crate) mod challenges;
pub(crate) mod files;
pub(crate) mod local_ca;
pub(crate) mod names;
pub(crate) mod temporary;

use std::{fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets},
};

use crate::storage::StorageError;
use certificate::CertificateError;
pub(crate) use certificates::Certificates;
use challenges::ACME_TLS;

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
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0", ACME_TLS].map(<[u8]>::to_vec).into();
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

/// Why there is no certificate to serve.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// A PEM file cannot be read.
    Read { file: PathBuf, source: io::Error },
    /// The PEM files are no pair.
    Pair { cert: PathBuf, key: PathBuf, source: CertificateError },
    /// The storage directory fails.
    Storage(StorageError),
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

/// Handshakes without a network.
#[cfg(test)]
pub(crate) mod testing {
    use super::local_ca;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
        SupportedProtocolVersion,
        pki_types::{self, CertificateDer, pem::PemObject},
    };
    use std::{path::Path, sync::Arc};

    /// A client that trusts the root in `storage`.
    pub(crate) fn client(
        storage: &Path,
        version: &'static SupportedProtocolVersion,
        alpn: &[&str],
    ) -> ClientConfig {
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
    pub(crate) fn shake(
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
}

#[cfg(test)]
mod tests {
    use super::{
        challenges::Challenges,
        local_ca::{LocalCa, Machine},
        testing::{client, shake},
        *,
    };
    use crate::{config::UnknownNames, storage::Storage};
    use rustls::{
        HandshakeKind, NamedGroup, ProtocolVersion,
        version::{TLS12, TLS13},
    };
    use std::{fs, path::Path};
    use time::OffsetDateTime;

    /// Of the local CA in `storage`.
    fn certificates(storage: &Path, names: &[&str]) -> Arc<Certificates> {
        let storage = Storage::open(storage).unwrap();
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        let ca = LocalCa::open(storage, names, &Machine::current(), OffsetDateTime::now_utc()).unwrap();
        Arc::new(Certificates::one(Arc::clone(ca.leaf()), UnknownNames::Reject))
    }

    #[test]
    fn a_client_that_trusts_the_root_reaches_every_name_with_either_version() {
        install_provider();
        let storage = tempfile::tempdir().unwrap();
        let names = ["chat.lan", "chat.example.org", "192.168.1.20", "fd00::20", "203.0.113.7"];
        let certificates = certificates(storage.path(), &names);
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
        let ticketer = ticketer().unwrap();
        let load = || {
            let certificates = certificates(storage.path(), &["chat.lan"]);
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
        let certificates = certificates(storage.path(), &["chat.lan"]);
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
