//! What a listener shows a client that believes anything, and what can be said about it.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::harness::raw;

/// A certificate with its chain, as a handshake showed it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Served {
    /// What `address` shows for `name`; an error where it ends the handshake.
    pub(crate) async fn at(address: SocketAddr, name: &str) -> io::Result<Self> {
        Self::with_alpn(address, name, &["http/1.1"]).await
    }

    /// The same for other protocols.
    pub(crate) async fn with_alpn(address: SocketAddr, name: &str, alpn: &[&str]) -> io::Result<Self> {
        let stream = raw::handshake(address, credulous_client(alpn), name).await?;
        let (_, connection) = stream.get_ref();
        let chain = connection.peer_certificates().expect("TLS servers show one");
        Ok(Self { chain: chain.iter().cloned().map(CertificateDer::into_owned).collect() })
    }

    fn leaf(&self) -> X509Certificate<'_> {
        X509Certificate::from_der(&self.chain[0]).unwrap().1
    }

    pub(crate) fn issuer(&self) -> String {
        self.leaf().issuer().to_string()
    }

    pub(crate) fn is_pebbles(&self) -> bool {
        self.issuer().contains("Pebble Intermediate")
    }

    pub(crate) fn serial(&self) -> String {
        self.leaf().raw_serial_as_string()
    }

    /// The names and addresses that it is for, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let leaf = self.leaf();
        let names = leaf.subject_alternative_name().unwrap().expect("it is for some name");
        let mut names: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(|name| {
                if let GeneralName::DNSName(name) = name {
                    (*name).to_owned()
                } else if let GeneralName::IPAddress(bytes) = name {
                    let bytes: [u8; 4] = (*bytes).try_into().unwrap();
                    std::net::Ipv4Addr::from(bytes).to_string()
                } else {
                    panic!("{name}")
                }
            })
            .collect();
        names.sort();
        names
    }

    /// The key's algorithm and curve, as OIDs.
    pub(crate) fn key_curve(&self) -> String {
        let leaf = self.leaf();
        let parameters = leaf.public_key().algorithm.parameters.as_ref().unwrap();
        parameters.as_oid().unwrap().to_string()
    }

    /// With its algorithm, in DER.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.leaf().public_key().raw.to_vec()
    }

    /// How it is called in the CA's renewal information (RFC 9773, section 4.1).
    pub(crate) fn ari_id(&self) -> String {
        use base64::prelude::*;
        let leaf = self.leaf();
        let issuer = leaf
            .extensions()
            .iter()
            .find_map(|extension| {
                if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
                    id.key_identifier.as_ref()
                } else {
                    None
                }
            })
            .unwrap();
        let issuer = BASE64_URL_SAFE_NO_PAD.encode(issuer.0);
        format!("{issuer}.{}", BASE64_URL_SAFE_NO_PAD.encode(leaf.raw_serial()))
    }

    /// For how many days it is valid.
    pub(crate) fn days(&self) -> i64 {
        let leaf = self.leaf();
        let validity = leaf.validity();
        (validity.not_after.timestamp() - validity.not_before.timestamp() + 1) / 86_400
    }

    pub(crate) fn has_critical_extension(&self, oid: &str) -> bool {
        let leaf = self.leaf();
        let mut extensions = leaf.extensions().iter();
        extensions.any(|extension| extension.critical && extension.oid.to_id_string() == oid)
    }

    pub(crate) fn leaf_pem(&self) -> String {
        pem(&self.chain[0])
    }
}

fn pem(der: &[u8]) -> String {
    use base64::prelude::*;
    let text = BASE64_STANDARD.encode(der);
    // Base64 is ASCII, so that any cut is between characters.
    let lines: String =
        text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

/// A client's TLS 1.3 config that takes every certificate whose key the server holds.
pub(crate) fn credulous_client(alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    /// By the key alone: rustls reads no certificate with the critical extension of TLS-ALPN-01.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
        let key = certificate.public_key().raw.into();
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
