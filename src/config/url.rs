//! The three kinds of URL in a config: the backend's, a forwarded front end's, a proxy's.
//!
//! None of their errors repeats the text: it may hold a password.

use std::{
    error::Error,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use http::uri::{Authority, Scheme};

use super::types::{Secret, ServerName};

/// The backend: `http://` or `https://`, a host, a port, and nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BackendUrl {
    pub(crate) scheme: Scheme,
    /// Host and port, the port always given.
    pub(crate) authority: Authority,
}

/// Where a forwarded front end lies: an origin, and perhaps a path that goes before the request's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FrontendUrl {
    pub(crate) origin: BackendUrl,
    /// Empty, or beginning with `/` and not ending in one.
    pub(crate) base: Box<str>,
}

/// A proxy on the way to the backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProxyUrl {
    pub(crate) scheme: ProxyScheme,
    /// Host and port, the port always given.
    pub(crate) authority: Authority,
    pub(crate) credentials: Option<Credentials>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProxyScheme {
    /// Absolute-form requests for `http://` backends, CONNECT for `https://`.
    Http,
    /// SOCKS5; names are resolved here.
    Socks5,
    /// SOCKS5; names are resolved by the proxy.
    Socks5h,
}

/// A proxy's user and password, percent-decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// Why a text is no URL of its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UrlError {
    /// Another scheme than `http` or `https`, or none.
    OriginScheme,
    /// Another scheme than a proxy's.
    ProxyScheme,
    /// An `https://` proxy.
    HttpsProxy,
    Host,
    Port,
    UserInfo,
    Path,
    /// A character that no path has.
    BadPath,
    Query,
    Credentials,
}

/// A URL taken apart; only the host and the port are checked.
struct Parts<'a> {
    scheme: String,
    user_info: Option<&'a str>,
    host: ServerName,
    port: Option<u16>,
    /// Empty, or beginning with `/`.
    path: &'a str,
}

impl<'a> Parts<'a> {
    /// The scheme is checked first, so that a forgotten `http://` is not called a bad host.
    fn parse(text: &'a str, check: impl FnOnce(&str) -> Result<(), UrlError>) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        check(&scheme)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (user_info, host_port) = match authority.rsplit_once('@') {
            Some((user_info, host_port)) => (Some(user_info), host_port),
            None => (None, authority),
        };
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match host_port.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            Some(_) | None => (host_port, None),
        };
        let bracketed = host.starts_with('[');
        let host: ServerName = host.parse().map_err(|_| UrlError::Host)?;
        if bracketed != matches!(host, ServerName::Ip(std::net::IpAddr::V6(_))) {
            return Err(UrlError::Host);
        }
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                match digits.parse().map_err(|_| UrlError::Port)? {
                    0 => return Err(UrlError::Port),
                    port => Some(port),
                }
            }
            Some(_) => return Err(UrlError::Port),
        };
        Ok(Self { scheme, user_info, host, port, path })
    }

    fn authority(&self, default_port: u16) -> Result<Authority, UrlError> {
        format!("{}:{}", self.host.to_host(), self.port.unwrap_or(default_port))
            .parse()
            .map_err(|_| UrlError::Host)
    }

    /// The origin of an `http` or `https` URL.
    fn origin(&self) -> Result<BackendUrl, UrlError> {
        if self.user_info.is_some() {
            return Err(UrlError::UserInfo);
        }
        let (scheme, default_port) = match self.scheme.as_str() {
            "http" => (Scheme::HTTP, 80),
            "https" => (Scheme::HTTPS, 443),
            _ => return Err(UrlError::OriginScheme),
        };
        Ok(BackendUrl { scheme, authority: self.authority(default_port)? })
    }
}

fn is_web(scheme: &str) -> Result<(), UrlError> {
    if matches!(scheme, "http" | "https") { Ok(()) } else { Err(UrlError::OriginScheme) }
}

impl Default for BackendUrl {
    /// Where a default install of the backend listens.
    fn default() -> Self {
        Self { scheme: Scheme::HTTP, authority: Authority::from_static("127.0.0.1:42836") }
    }
}

impl FromStr for BackendUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let parts = Parts::parse(text, is_web)?;
        if !matches!(parts.path, "" | "/") {
            return Err(UrlError::Path);
        }
        parts.origin()
    }
}

impl FromStr for FrontendUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let parts = Parts::parse(text, is_web)?;
        let base = parts.path.trim_end_matches('/');
        // What hyper would not put into a request line must not come this far.
        if !base.is_empty() && base.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(UrlError::BadPath);
        }
        Ok(Self { origin: parts.origin()?, base: base.into() })
    }
}

impl FromStr for ProxyUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let parts = Parts::parse(text, |scheme| match scheme {
            "http" | "socks5" | "socks5h" => Ok(()),
            "https" => Err(UrlError::HttpsProxy),
            _ => Err(UrlError::ProxyScheme),
        })?;
        let (scheme, default_port) = match parts.scheme.as_str() {
            "http" => (ProxyScheme::Http, 80),
            "socks5" => (ProxyScheme::Socks5, 1080),
            _ => (ProxyScheme::Socks5h, 1080),
        };
        if !matches!(parts.path, "" | "/") {
            return Err(UrlError::Path);
        }
        Ok(Self {
            scheme,
            authority: parts.authority(default_port)?,
            credentials: parts.user_info.map(Credentials::parse).transpose()?,
        })
    }
}

impl Credentials {
    fn parse(user_info: &str) -> Result<Self, UrlError> {
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        let user = percent_decode(user).ok_or(UrlError::Credentials)?;
        let password = percent_decode(password).ok_or(UrlError::Credentials)?;
        // RFC 1929: 255 bytes each. RFC 7617: a colon would end the user's name early.
        let fits = |text: &str| text.len() <= 255 && !text.contains(|c: char| c.is_control());
        if user.is_empty() || user.contains(':') || !fits(&user) || !fits(&password) {
            return Err(UrlError::Credentials);
        }
        Ok(Self { user, password: Secret(password) })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

impl BackendUrl {
    /// Its address if that is in 127.0.0.0/8, or `localhost`.
    pub(crate) fn loopback(&self) -> Option<SocketAddrV4> {
        let address = match self.authority.host() {
            "localhost" => Ipv4Addr::LOCALHOST,
            host => host.parse().ok().filter(Ipv4Addr::is_loopback)?,
        };
        Some(SocketAddrV4::new(address, self.authority.port_u16()?))
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Display for FrontendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base)
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OriginScheme => "the URL begins with `http://` or `https://`",
            Self::ProxyScheme => "a proxy's URL begins with `http://`, `socks5://` or `socks5h://`",
            Self::HttpsProxy => {
                "a proxy is not spoken to over TLS; `http://` works for `https://` backends too, by CONNECT"
            }
            Self::Host => {
                "the URL names no host: a domain name, an IPv4 address, or an IPv6 address in brackets"
            }
            Self::Port => "the URL's port is a number from 1 to 65535",
            Self::UserInfo => "no user or password can stand in this URL",
            Self::Path => "the URL ends after host and port: paths go through as they are",
            Self::BadPath => "a character in the URL's path has to be percent-encoded",
            Self::Query => "the URL has no `?` and no `#`",
            Self::Credentials => {
                "user and password are percent-encoded, of at most 255 bytes each, and the user is not empty"
            }
        })
    }
}

impl Error for UrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_scheme_host_and_port() {
        for (text, expected) in [
            ("http://127.0.0.1:42836", "http://127.0.0.1:42836"),
            ("http://127.0.0.1:42836/", "http://127.0.0.1:42836"),
            ("HTTP://Sova", "http://sova:80"),
            ("https://chat.example.org", "https://chat.example.org:443"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(
                text.parse::<BackendUrl>().map(|url| url.to_string()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_backend_with_anything_else_is_refused() {
        for (text, error) in [
            ("", UrlError::OriginScheme),
            ("127.0.0.1:42836", UrlError::OriginScheme),
            ("ftp://h", UrlError::OriginScheme),
            ("unix:/run/x", UrlError::OriginScheme),
            ("http://", UrlError::Host),
            ("http://:80", UrlError::Host),
            ("http://a b", UrlError::Host),
            ("http://::1", UrlError::Host),
            ("http://[127.0.0.1]", UrlError::Host),
            ("http://h:0", UrlError::Port),
            ("http://h:", UrlError::Port),
            ("http://h:+1", UrlError::Port),
            ("http://h:65536", UrlError::Port),
            ("http://u:p@h", UrlError::UserInfo),
            ("http://@h", UrlError::UserInfo),
            ("http://h/api", UrlError::Path),
            ("http://h?x", UrlError::Query),
            ("http://h/#x", UrlError::Query),
        ] {
            assert_eq!(text.parse::<BackendUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_front_end_may_have_a_base_path() {
        let url: FrontendUrl = "https://pages.example.org/mura/".parse().unwrap();
        assert_eq!(&*url.base, "/mura");
        assert_eq!(url.to_string(), "https://pages.example.org:443/mura");
        assert_eq!(&*"http://h/".parse::<FrontendUrl>().unwrap().base, "");
        for (text, error) in [
            ("http://h/a b", UrlError::BadPath),
            ("http://h/?a", UrlError::Query),
            ("http://u@h/", UrlError::UserInfo),
        ] {
            assert_eq!(text.parse::<FrontendUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_proxy_has_a_scheme_and_decoded_credentials() {
        let url: ProxyUrl = "socks5://us%65r:p%40%3ass@10.0.0.1".parse().unwrap();
        assert_eq!(url.scheme, ProxyScheme::Socks5);
        assert_eq!(url.authority, "10.0.0.1:1080");
        let credentials = url.credentials.clone().unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.0.as_str()), ("user", "p@:ss"));
        assert!(!format!("{url:?}").contains("p@"));
        assert_eq!("socks5h://h:9".parse::<ProxyUrl>().unwrap().scheme, ProxyScheme::Socks5h);
        assert_eq!("http://h/".parse::<ProxyUrl>().unwrap().authority, "h:80");
    }

    #[test]
    fn other_proxies_are_refused() {
        for (text, error) in [
            ("https://h:1", UrlError::HttpsProxy),
            ("socks4://h:1", UrlError::ProxyScheme),
            ("h:1080", UrlError::ProxyScheme),
            ("http://h/p", UrlError::Path),
            ("http://%zz@h", UrlError::Credentials),
            ("http://:p@h", UrlError::Credentials),
            ("http://a%3Ab@h", UrlError::Credentials),
            ("http://a%0a@h", UrlError::Credentials),
        ] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(error), "{text}");
        }
    }
}
