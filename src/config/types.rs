//! The config's own types: each can only be made of text that means one.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// A number of bytes. In a file: a bare number, or a string with the unit `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct ByteSize(pub(crate) u64);

/// The secret first path segment, as a path: empty, or `/` and one segment.
///
/// `Debug` does not show it: who knows it can reach the server.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct UriPrefix(Box<str>);

/// Why a text is no secret prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct UriPrefixError;

impl UriPrefix {
    /// Of the config's value: one segment of unreserved characters, with or without slashes around it.
    pub(crate) fn new(text: &str) -> Result<Self, UriPrefixError> {
        let segment = text.trim_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match segment {
            "" => Ok(Self("".into())),
            "." | ".." => Err(UriPrefixError),
            _ if segment.bytes().all(plain) => Ok(Self(format!("/{segment}").into())),
            _ => Err(UriPrefixError),
        }
    }

    /// Empty, or `/` and the segment.
    pub(crate) fn as_path(&self) -> &str {
        &self.0
    }

    /// `text` with `<prefix>` in every place where the secret stands. It is made of unreserved characters, so it
    /// looks the same encoded and decoded.
    pub(crate) fn mask(&self, text: &str) -> String {
        match self.0.strip_prefix('/') {
            Some(secret) => text.replace(secret, "<prefix>"),
            None => text.to_owned(),
        }
    }

    /// What follows the prefix in a decoded path: empty, or beginning with `/`. `None`: not below it.
    pub(crate) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&*self.0).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for UriPrefix {
    type Err = UriPrefixError;

    fn from_str(text: &str) -> Result<Self, UriPrefixError> {
        Self::new(text)
    }
}

impl fmt::Debug for UriPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "UriPrefix(none)" } else { "UriPrefix(…)" })
    }
}

impl fmt::Display for UriPrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the prefix is one path segment of letters, digits, `-`, `.`, `_` and `~`")
    }
}

impl std::error::Error for UriPrefixError {}

/// A name or address that the relay serves: a DNS name in lower case without a final dot, or an IP address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ServerName {
    Dns(Box<str>),
    Ip(IpAddr),
}

/// Why a text is no name that can be served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ServerNameError;

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A last label of digits alone is an IPv4 address that is none, such as 1.2.3.400.
        let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let valid =
            name.len() <= 253 && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(numeric);
        if valid { Ok(Self::Dns(name.into())) } else { Err(ServerNameError) }
    }
}

impl ServerName {
    /// Whether no public CA vouches for it: an IP address, a single label, or a name kept for local use.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Ip(_) => true,
            Self::Dns(name) => {
                !name.contains('.')
                    || [".localhost", ".local", ".lan", ".home.arpa", ".internal"]
                        .iter()
                        .any(|end| name.ends_with(end))
            }
        }
    }

    /// Whether it is kept for tests, examples or Tor (RFC 2606, RFC 7686): a private CA may issue for it. Of public CAs
    /// a few do for Tor, none of those that the config has a word for.
    pub(crate) fn is_reserved(&self) -> bool {
        match self {
            Self::Ip(_) => false,
            Self::Dns(name) => {
                [".test", ".example", ".invalid", ".onion"].iter().any(|end| name.ends_with(end))
            }
        }
    }

    /// Whether a public CA that was asked for it would never issue. For public addresses some do.
    pub(crate) fn is_refused_by_public_cas(&self) -> bool {
        match self {
            Self::Ip(address) => is_private(address.to_canonical()),
            Self::Dns(_) => self.is_local() || self.is_reserved(),
        }
    }

    /// Whether it leads every machine to itself: `localhost` and what is below it (RFC 6761, section 6.3), or a
    /// loopback address.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.is_loopback(),
            Self::Dns(name) => &**name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// As the host of a URL: IPv6 in brackets.
    pub(crate) fn to_host(&self) -> String {
        match self {
            Self::Dns(name) => name.to_string(),
            Self::Ip(IpAddr::V4(address)) => address.to_string(),
            Self::Ip(IpAddr::V6(address)) => format!("[{address}]"),
        }
    }
}

/// Whether an address means another machine, or none, in each network.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // RFC 6598: behind a carrier's NAT.
            let shared = first == 100 && second & 0xc0 == 64;
            shared
                || address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_documentation()
        }
        IpAddr::V6(address) => {
            // RFC 3849.
            let documentation = address.segments().starts_with(&[0x2001, 0xdb8]);
            documentation
                || address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for ServerNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither a domain name nor an IP address")
    }
}

impl std::error::Error for ServerNameError {}

/// What one certificate is for: a name or address, or every name one label below a domain.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Subject {
    Name(ServerName),
    /// `example.org` for `*.example.org`.
    Wildcard(Box<str>),
}

/// Why a text is neither.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SubjectError {
    Name(ServerNameError),
    /// A `*` that stands for something else than the whole first label of a domain.
    Wildcard,
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let Some(parent) = text.strip_prefix("*.") else {
            let error =
                if text.contains('*') { SubjectError::Wildcard } else { SubjectError::Name(ServerNameError) };
            return text.parse().map(Self::Name).map_err(|_| error);
        };
        match parent.parse() {
            Ok(ServerName::Dns(parent)) => Ok(Self::Wildcard(parent)),
            Ok(ServerName::Ip(_)) | Err(ServerNameError) => Err(SubjectError::Wildcard),
        }
    }
}

impl Subject {
    /// The name, or the one that those of a wildcard are below.
    fn base(&self) -> Cow<'_, ServerName> {
        match self {
            Self::Name(name) => Cow::Borrowed(name),
            Self::Wildcard(parent) => Cow::Owned(ServerName::Dns(parent.clone())),
        }
    }

    /// Whether no public CA vouches for it.
    pub(crate) fn is_local(&self) -> bool {
        self.base().is_local()
    }

    /// Whether it is kept for tests, examples or Tor.
    pub(crate) fn is_reserved(&self) -> bool {
        self.base().is_reserved()
    }

    /// Whether a public CA that was asked for it would never issue.
    pub(crate) fn is_refused_by_public_cas(&self) -> bool {
        self.base().is_refused_by_public_cas()
    }

    /// The name, unless it is a wildcard.
    pub(crate) fn as_name(&self) -> Option<&ServerName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Wildcard(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Wildcard => f.write_str("a wildcard is the whole first label of a domain: *.example.org"),
        }
    }
}

impl std::error::Error for SubjectError {}

/// A text that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The address to bind: an IP address, or `localhost` for 127.0.0.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BindHost(pub(crate) IpAddr);

/// Why a text is no address to bind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BindHostError;

impl FromStr for BindHost {
    type Err = BindHostError;

    fn from_str(text: &str) -> Result<Self, BindHostError> {
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self(Ipv4Addr::LOCALHOST.into()));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(Self).map_err(|_| BindHostError)
    }
}

impl fmt::Display for BindHostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP address to listen on, or `localhost`; `::` is every address of the machine")
    }
}

impl std::error::Error for BindHostError {}

/// Peers that are trusted: a network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TrustedPeer(pub(crate) IpNet);

/// Why a text is neither.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TrustedPeerError;

impl FromStr for TrustedPeer {
    type Err = TrustedPeerError;

    fn from_str(text: &str) -> Result<Self, TrustedPeerError> {
        let network = text.parse::<IpNet>().map(|network| network.trunc());
        network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map(Self).map_err(|_| TrustedPeerError)
    }
}

impl fmt::Display for TrustedPeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither an IP address nor a network such as 10.0.0.0/8")
    }
}

impl std::error::Error for TrustedPeerError {}
