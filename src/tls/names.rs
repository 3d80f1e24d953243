//! The names that are served: those that a client may be sent to, and that a request may be for.

use std::sync::Arc;

use http::uri::Authority;

use super::Certificates;
use crate::config::ServerName;

/// What is configured, and what the certificates are for.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) certificates: Arc<Certificates>,
    /// Those of the config. Who asks for none of ours is sent to the first.
    pub(crate) configured: Arc<[ServerName]>,
}

impl Names {
    /// The URL of the first name, for people.
    pub(crate) fn url(&self, https_port: u16) -> String {
        let name = self.configured.first().cloned().or_else(|| self.certificates.first_name());
        let host = name.map_or_else(|| "*".to_owned(), |name| name.to_host());
        format!("https://{host}{}/", port(https_port))
    }

    /// Whether a request over TLS may be for this host.
    ///
    /// SECURITY: the name of the handshake need not be that of the request, and a client that connects to an address
    /// gives none; a backend writes the request's into its links.
    pub(crate) fn include(&self, host: &Authority) -> bool {
        let host = host.host().trim_start_matches('[').trim_end_matches(']');
        let is_it =
            |name: &ServerName| matches!(name, ServerName::Dns(name) if name.eq_ignore_ascii_case(host));
        !self.certificates.reject_unknown()
            || self.configured.iter().any(is_it)
            || host
                .parse()
                .is_ok_and(|name| self.configured.contains(&name) || self.certificates.serves(&name))
    }

    pub(crate) fn are(&self, name: &ServerName) -> bool {
        self.configured.contains(name) || self.certificates.is_for(name)
    }
}

/// As it stands in a URL: 443 goes without saying.
pub(crate) fn port(https_port: u16) -> String {
    if https_port == 443 { String::new() } else { format!(":{https_port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::UnknownNames,
        tls::{certificate::Certificate, temporary},
    };
    use time::OffsetDateTime;

    fn names(unknown: UnknownNames) -> Names {
        crate::tls::install_provider();
        let made = |subject: &str| -> Option<Arc<Certificate>> {
            Some(Arc::new(
                temporary::certificate(&subject.parse().unwrap(), OffsetDateTime::now_utc()).unwrap(),
            ))
        };
        let places =
            vec![made("chat.example.org"), made("*.example.net"), made("192.0.2.7"), made("2001:db8::7")];
        let certificates = Certificates::new(places, None, unknown, Arc::default());
        Names {
            certificates: Arc::new(certificates),
            configured: Arc::new(["other.example.org".parse().unwrap()]),
        }
    }

    #[test]
    fn a_request_is_for_a_name_of_ours_with_any_port_and_in_any_case() {
        let (reject, any) = (names(UnknownNames::Reject), names(UnknownNames::Default));
        for host in [
            "chat.example.org",
            "Chat.Example.ORG:8443",
            "other.example.org",
            "OTHER.example.org",
            "a.example.net",
            "192.0.2.7",
            "[2001:db8::7]:443",
        ] {
            assert!(reject.include(&host.parse().unwrap()), "{host}");
        }
        for host in ["evil.example", "example.org", "a.b.example.net", "192.0.2.8", "[::1]", "x_y"] {
            assert!(!reject.include(&host.parse().unwrap()), "{host}");
            assert!(any.include(&host.parse().unwrap()), "{host}");
        }
    }
}
