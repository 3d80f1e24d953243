//! `[tls.acme]`: how certificates are got from a CA that speaks ACME (RFC 8555).

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use http::{Uri, uri::Scheme};
use serde::{Deserialize, Serialize};

use super::{
    types::{ServerName, Subject},
    url::{ProxyUrl, UrlError},
};

/// How certificates are got, and for which names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AcmeConfig {
    /// What a public certificate is wanted for: one each, in the order of the config.
    pub(crate) subjects: Vec<Subject>,
    /// The names beside them that no public CA vouches for: the local CA does.
    pub(crate) local: Vec<ServerName>,
    pub(crate) authority: Authority,
    /// The CAs, the first being the one that is wanted. Never none.
    pub(crate) directories: Vec<Directory>,
    /// In the order in which they are tried. What cannot work is left out.
    pub(crate) challenges: Vec<ChallengeKind>,
    pub(crate) profile: Option<String>,
    pub(crate) key_type: KeyType,
    /// What serves a name that has no public certificate; `None`: a temporary one that nobody trusts.
    pub(crate) fallback: Option<Fallback>,
    /// A program that is told when a renewal keeps failing.
    pub(crate) on_failure: Option<PathBuf>,
    pub(crate) dns: DnsConfig,
}

/// How a CA is reached, and who we are there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Authority {
    pub(crate) email: Option<Email>,
    pub(crate) external_account: Option<ExternalAccount>,
    /// PEM roots of private CAs, beside the public ones.
    pub(crate) ca_root: Option<PathBuf>,
    /// The proxy on the way; `None`: direct.
    pub(crate) proxy: Option<ProxyUrl>,
    pub(crate) transport: Transport,
}

/// What a directory may be fetched by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    HttpsOnly,
    /// Plain HTTP to this machine too, for tests.
    HttpOnLoopback,
}

/// Where a CA's ACME interface begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Directory {
    pub(crate) url: Uri,
    /// The same CA's directory for tries, which has rate limits of its own.
    pub(crate) staging: Option<&'static str>,
}

/// Why a text names no directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct DirectoryError;

const KNOWN: [(&str, &str, Option<&str>); 4] = [
    (
        "letsencrypt",
        "https://acme-v02.api.letsencrypt.org/directory",
        Some("https://acme-staging-v02.api.letsencrypt.org/directory"),
    ),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory", None),
    ("zerossl", "https://acme.zerossl.com/v2/DV90", None),
    (
        "google",
        "https://dv.acme-v02.api.pki.goog/directory",
        Some("https://dv.acme-v02.test-api.pki.goog/directory"),
    ),
];

impl Default for Directory {
    fn default() -> Self {
        let (_, url, staging) = KNOWN[0];
        Self { url: Uri::from_static(url), staging }
    }
}

impl FromStr for Directory {
    type Err = DirectoryError;

    fn from_str(text: &str) -> Result<Self, DirectoryError> {
        let known = |(name, url, _): &&(&str, &str, Option<&str>)| *name == text || *url == text;
        if let Some((_, url, staging)) = KNOWN.iter().find(known) {
            return Ok(Self { url: Uri::from_static(url), staging: *staging });
        }
        let url: Uri = text.parse().map_err(|_| DirectoryError)?;
        let is_web = [Some(&Scheme::HTTPS), Some(&Scheme::HTTP)].contains(&url.scheme());
        let host = url.authority().filter(|authority| !authority.as_str().contains('@'));
        if is_web && host.is_some_and(|host| host.host().parse::<ServerName>().is_ok()) {
            Ok(Self { url, staging: None })
        } else {
            Err(DirectoryError)
        }
    }
}

impl Directory {
    /// Whether its URL is one that nobody on the way can read or change.
    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether it is known as a public CA's, which issues for no name of a private network.
    pub(crate) fn is_public(&self) -> bool {
        KNOWN
            .iter()
            .any(|(_, url, staging)| self.url == *url || staging.is_some_and(|staging| self.url == staging))
    }

    /// Whether it is Let's Encrypt's, for use or for tries.
    pub(crate) fn is_lets_encrypt(&self) -> bool {
        self.url.host().is_some_and(|host| host.ends_with(".letsencrypt.org"))
    }

    /// Whether it is on this machine.
    pub(crate) fn is_on_loopback(&self) -> bool {
        match self.url.host().map(str::parse) {
            Some(Ok(ServerName::Ip(address))) => address.is_loopback(),
            Some(Ok(ServerName::Dns(name))) => &*name == "localhost",
            Some(Err(_)) | None => false,
        }
    }

    /// The directory for tries, where the CA has one.
    pub(crate) fn to_staging(&self) -> Option<Self> {
        Some(Self { url: Uri::from_static(self.staging?), staging: None })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither letsencrypt, letsencrypt-staging, zerossl or google, nor the URL of a directory")
    }
}

impl std::error::Error for DirectoryError {}

/// How control over a name is shown.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) enum ChallengeKind {
    /// In a TLS handshake on the main port (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a file on port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// By a TXT record.
    #[serde(rename = "dns-01")]
    Dns01,
    /// By a TXT record that a person sets once (draft-ietf-acme-dns-persist).
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
}

/// Why a text names no challenge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ChallengeKindError;

impl ChallengeKind {
    /// Those that are tried where nobody chose. A record that a person has to set is asked for by choice alone.
    pub(crate) const DEFAULT: [Self; 3] = [Self::TlsAlpn01, Self::Http01, Self::Dns01];
    const ALL: [Self; 4] = [Self::TlsAlpn01, Self::Http01, Self::Dns01, Self::DnsPersist01];

    fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }
}

impl FromStr for ChallengeKind {
    type Err = ChallengeKindError;

    fn from_str(text: &str) -> Result<Self, ChallengeKindError> {
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or(ChallengeKindError)
    }
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ChallengeKindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the challenges are tls-alpn-01, http-01, dns-01 and dns-persist-01")
    }
}

impl std::error::Error for ChallengeKindError {}

/// The curve of certificates' keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KeyType {
    P256,
    P384,
}

/// What serves a name that has no public certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fallback {
    /// The local CA's leaf.
    SelfSigned,
}

/// An e-mail address that a CA may write to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Email(Box<str>);

/// Why a text is no e-mail address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EmailError;

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let (local, domain) = text.split_once('@').ok_or(EmailError)?;
        // What RFC 8555, section 7.3, allows of a mailto URL: one address, and no header fields.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"()<>[]:;@\\,\"?&".contains(&byte);
        let is_domain = matches!(domain.parse(), Ok(ServerName::Dns(name)) if name.contains('.'));
        if !local.is_empty() && local.bytes().all(plain) && is_domain {
            Ok(Self(text.into()))
        } else {
            Err(EmailError)
        }
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EmailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no e-mail address; leave it empty to give none")
    }
}

impl std::error::Error for EmailError {}

/// An account elsewhere that the CA binds ours to (RFC 8555, section 7.3.4). `Debug` does not show its key.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct ExternalAccount {
    pub(crate) kid: String,
    pub(crate) key: Vec<u8>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// `[tls.acme] proxy`, where it is not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ProxyChoice {
    /// The one of `[upstream_proxy]`.
    Upstream,
    Own(ProxyUrl),
}

impl FromStr for ProxyChoice {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text {
            "upstream" => Ok(Self::Upstream),
            url => url.parse().map(Self::Own),
        }
    }
}

/// `[tls.acme.dns]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DnsConfig {
    /// A program that puts TXT records into the DNS. Wins over `listen`.
    pub(crate) hook: Option<PathBuf>,
    /// Where the relay answers for names that are delegated to it.
    pub(crate) listen: Option<SocketAddr>,
    /// How long a record may take to be seen.
    pub(crate) propagation: Duration,
}

impl DnsConfig {
    /// Whether there is any way to put a record into the DNS.
    pub(crate) fn can_solve(&self) -> bool {
        self.hook.is_some() || self.listen.is_some()
    }
}

/// An address to listen on; the host may be left out for every address of the machine: `:53`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

/// Why a text is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListenAddressError;

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let address = match text.strip_prefix(':') {
            Some(port) => port.parse().ok().map(|port| (Ipv6Addr::UNSPECIFIED, port).into()),
            None => text.parse().ok(),
        };
        address.map(Self).ok_or(ListenAddressError)
    }
}

impl fmt::Display for ListenAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP address and a port, such as \"203.0.113.7:53\", or \":53\" for every address")
    }
}

impl std::error::Error for ListenAddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_a_known_ca_or_a_url() {
        let known: Directory = "letsencrypt".parse().unwrap();
        assert_eq!(known, Directory::default());
        assert!(known.is_https());
        assert!(known.to_staging().unwrap().url.host().unwrap().contains("staging"));
        assert_eq!("https://acme-v02.api.letsencrypt.org/directory".parse(), Ok(known));
        let own: Directory = "https://ca.lan:9000/acme/acme/directory".parse().unwrap();
        assert_eq!((own.to_staging(), own.is_https()), (None, true));
        for text in ["", "lets-encrypt", "ftp://a/", "https://", "https://u:p@h/d", "/d", "https:///d"] {
            assert_eq!(text.parse::<Directory>(), Err(DirectoryError), "{text}");
        }
    }

    #[test]
    fn every_challenge_can_be_named_and_one_that_needs_a_person_is_never_taken_unasked() {
        for kind in ChallengeKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("dns-persist-01".parse(), Ok(ChallengeKind::DnsPersist01));
        assert!(!ChallengeKind::DEFAULT.contains(&ChallengeKind::DnsPersist01));
    }

    #[test]
    fn loopback_is_told_from_the_rest_of_the_world() {
        for (text, loopback) in [
            ("http://127.0.0.1:14000/dir", true),
            ("http://localhost/dir", true),
            ("http://[::1]:1/dir", true),
            ("http://localhost.example.org/dir", false),
            ("http://192.0.2.1/dir", false),
        ] {
            assert_eq!(text.parse::<Directory>().unwrap().is_on_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn an_e_mail_is_one_address_and_nothing_that_a_mailto_url_would_read_as_more() {
        for text in ["a@example.org", "a.b+c@mail.example.org"] {
            assert!(text.parse::<Email>().is_ok(), "{text}");
        }
        for text in
            ["", "a", "@example.org", "a@b", "a b@example.org", "a@b@example.org", "a?cc=x@example.org"]
        {
            assert_eq!(text.parse::<Email>(), Err(EmailError), "{text}");
        }
    }

    #[test]
    fn the_key_of_an_external_account_is_not_shown() {
        let account = ExternalAccount { kid: "kid-1".into(), key: b"s3cret".to_vec() };
        let shown = format!("{account:?}");
        assert!(shown.contains("kid-1") && !shown.contains("115"), "{shown}");
    }

    #[test]
    fn an_address_to_listen_on_may_leave_out_the_host() {
        let address = |text: &str| text.parse::<ListenAddress>().map(|address| address.0.to_string());
        assert_eq!(address(":53").unwrap(), "[::]:53");
        assert_eq!(address("127.0.0.1:5300").unwrap(), "127.0.0.1:5300");
        assert!(address("53").is_err() && address(":x").is_err() && address("host:53").is_err());
    }
}
