//! The configuration: typed, and valid by construction.
//!
//! [`raw`] mirrors the file, [`load()`] turns it into a [`Config`] or reports every fault at once. A `Config`
//! is taken apart when the relay is bound; no leaf function ever sees a whole one.

pub(crate) mod acme;
mod backend;
mod certificates;
pub(crate) mod error;
mod flags;
mod limits;
mod load;
mod paths;
mod raw;
mod reader;
mod resolve;
mod setting;
mod source;
mod sova;
pub(crate) mod types;
mod units;
pub(crate) mod url;

use std::{
    ffi::OsString,
    net::IpAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;

pub(crate) use acme::AcmeConfig;
pub(crate) use error::{ConfigError, Style, Warning};
pub(crate) use flags::Flags;
pub(crate) use load::{load, load_text};
pub(crate) use source::sha256;
pub(crate) use types::{ByteSize, ServerName, Subject, UriPrefix};
pub(crate) use units::duration;
pub(crate) use url::{BackendUrl, Credentials, FrontendUrl, ProxyScheme, ProxyUrl};

use crate::rules::Rules;

/// A configuration, and what is hardly meant in it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<Warning>,
    /// The backend's own config, where one was read.
    pub(crate) sova: Option<PathBuf>,
}

/// A file that a configuration was read from.
#[derive(Clone, Debug)]
pub(crate) struct FileRead {
    pub(crate) path: PathBuf,
    /// Of its bytes as they were then, in hexadecimal.
    pub(crate) sha256: String,
}

/// What the process's surroundings say about defaults.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    /// `$STATE_DIRECTORY`, which systemd gives: a colon-separated list.
    pub(crate) state_directory: Option<OsString>,
    /// `$RUNTIME_DIRECTORY`, which it gives too: the same.
    pub(crate) runtime_directory: Option<OsString>,
    pub(crate) user: User,
    /// `$XDG_DATA_HOME`.
    pub(crate) data_home: Option<PathBuf>,
    /// `$HOME`.
    pub(crate) home: Option<PathBuf>,
    /// Where a default install of the backend has its config.
    pub(crate) sova: PathBuf,
    /// Where an installed relay has its own.
    pub(crate) installed: PathBuf,
}

/// Who runs the relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum User {
    Root,
    Other,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            state_directory: std::env::var_os("STATE_DIRECTORY"),
            runtime_directory: std::env::var_os("RUNTIME_DIRECTORY"),
            user: if rustix::process::geteuid().is_root() { User::Root } else { User::Other },
            data_home: std::env::var_os("XDG_DATA_HOME").map(PathBuf::from),
            home: std::env::var_os("HOME").map(PathBuf::from),
            sova: "/opt/parley-chat/config.toml".into(),
            installed: "/etc/parley-relay/config.toml".into(),
        }
    }

    /// The config file of the relay that is installed here. One that may not be looked at is there.
    pub(crate) fn installed_config(&self) -> Option<PathBuf> {
        (!matches!(self.installed.try_exists(), Ok(false))).then(|| self.installed.clone())
    }

    /// Where the control socket lies, when `storage` is where certificates are kept.
    pub(crate) fn control(&self, storage: &Path) -> PathBuf {
        first(self.runtime_directory.as_ref()).unwrap_or_else(|| storage.to_owned())
    }

    /// Where keys and certificates are kept when nobody says where.
    pub(crate) fn storage(&self) -> PathBuf {
        const NAME: &str = "parley-relay";
        if let Some(given) = first(self.state_directory.as_ref()) {
            return given;
        }
        // The XDG base directory specification: a relative path is to be ignored.
        let data_home = self.data_home.clone().filter(|path| path.is_absolute());
        let home = self.home.as_ref().filter(|path| path.is_absolute());
        match (self.user, data_home, home) {
            (User::Other, Some(data_home), _) => data_home.join(NAME),
            (User::Other, None, Some(home)) => home.join(".local/share").join(NAME),
            (User::Root, _, _) | (User::Other, None, None) => PathBuf::from("/var/lib").join(NAME),
        }
    }
}

/// The first directory of a list that systemd gives.
fn first(list: Option<&OsString>) -> Option<PathBuf> {
    std::env::split_paths(list?).find(|path| path.is_absolute())
}

/// Everything that can be configured.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) uri_prefix: UriPrefix,
    pub(crate) server: Server,
    /// `None`: plain HTTP, for use behind another proxy.
    pub(crate) tls: Option<Tls>,
    pub(crate) backend: Backend,
    pub(crate) upstream_proxy: Option<ProxyUrl>,
    pub(crate) frontend: Frontend,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) rules: Rules,
    /// Where the control socket lies.
    pub(crate) control: PathBuf,
    /// The files that it comes from: the config file first, and the backend's own.
    pub(crate) files: Vec<FileRead>,
}

/// `[server]`: the listeners and whom they believe.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The address to bind; `::` takes IPv4 too.
    pub(crate) host: IpAddr,
    /// The main listener's port; 0 lets the system choose.
    pub(crate) port: u16,
    /// The redirect listener's port; `None`: no such listener.
    pub(crate) http_port: Option<u16>,
    /// The largest request body that goes upstream.
    pub(crate) max_content_length: ByteSize,
    /// Peers whose word about the client's address is taken.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// The one header in which they give it.
    pub(crate) client_ip_header: HeaderName,
    /// Whether they speak the PROXY protocol, v1 or v2.
    pub(crate) proxy_protocol: bool,
}

/// `[tls]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tls {
    /// The names and addresses that are served, wildcards aside; redirects fall back to the first.
    pub(crate) names: Vec<ServerName>,
    pub(crate) certificates: CertificateSource,
    /// Where keys and certificates are kept.
    pub(crate) storage: PathBuf,
    pub(crate) unknown_names: UnknownNames,
    /// `Strict-Transport-Security`'s `max-age`; `None`: the header is not sent.
    pub(crate) hsts: Option<Duration>,
}

impl Tls {
    /// What the local CA vouches for; `None`: there is none.
    pub(crate) fn local_names(&self) -> Option<Vec<ServerName>> {
        match &self.certificates {
            CertificateSource::Files { .. } => None,
            CertificateSource::LocalCa => Some(self.names.clone()),
            CertificateSource::Acme(acme) => {
                let mut names = acme.local.clone();
                if acme.fallback == Some(acme::Fallback::SelfSigned) {
                    // It makes no wildcards.
                    names.extend(acme.subjects.iter().filter_map(Subject::as_name).cloned());
                }
                Some(names).filter(|names| !names.is_empty())
            }
        }
    }
}

/// Where certificates come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CertificateSource {
    /// PEM files, read anew when they change.
    Files { cert: PathBuf, key: PathBuf },
    /// A root and a leaf of our own, kept in the storage directory.
    LocalCa,
    /// A CA that speaks ACME, for all or some of the names.
    Acme(Box<AcmeConfig>),
}

/// What a ClientHello with a name that is none of ours gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnknownNames {
    /// An alert.
    Reject,
    /// The first certificate.
    Default,
}

/// `[backend]`.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) url: BackendUrl,
    /// PEM roots that an `https://` backend is verified against, instead of the web PKI.
    pub(crate) ca_file: Option<PathBuf>,
    /// How it is told who asks.
    pub(crate) client_address: ClientAddress,
    /// The most connections that are open to it at once.
    pub(crate) max_connections: usize,
    /// The most event streams among them; `None`: as many as leave ordinary requests their share.
    pub(crate) max_streams: Option<usize>,
    pub(crate) timeouts: Timeouts,
}

/// How the backend is told who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ClientAddress {
    /// By headers, and from a source address for each client.
    Loopback,
    /// By headers alone.
    Header,
}

/// How long the way to an origin may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Timeouts {
    /// Until a connection stands, proxies and TLS included.
    pub(crate) connect: Duration,
    /// From the last byte of the request to the response's head.
    pub(crate) response: Duration,
    /// Between two bytes of a body; event streams are exempt.
    pub(crate) idle: Duration,
    /// How long a request waits for a free connection.
    pub(crate) queue: Duration,
    /// How long a request is tried again that could not be sent.
    pub(crate) retry: Duration,
    /// How long an event stream is kept open that has no backend; zero: not at all.
    pub(crate) hold: Duration,
}

/// `[frontend]`: what no rule matches.
#[derive(Clone, Debug)]
pub(crate) enum Frontend {
    Serve {
        directory: PathBuf,
        /// First path segments that are not found.
        excluded_paths: Vec<String>,
        /// Whether a path without the secret prefix is not found.
        only_below_prefix: bool,
    },
    Forward(FrontendUrl),
    Disabled,
}

/// `[limits]`: time and size at the edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open client connections, all listeners together.
    pub(crate) connections: usize,
    /// Those among them that one client may have, an IPv6 client being its /64; trusted proxies aside.
    pub(crate) connections_per_client: usize,
    /// Requests that one client may send, over time; `None`: as many as it likes.
    pub(crate) requests_per_second: Option<NonZeroU32>,
    /// From accept to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub(crate) request_head: Duration,
    /// Between two bytes of a client's body, and between two writes that the client takes.
    pub(crate) idle_body: Duration,
    /// Between two requests on a connection.
    pub(crate) idle_connection: Duration,
    /// The slowest that a client may send a body, and take one, in bytes a second; 0: at any rate.
    pub(crate) least_rate: u64,
    /// The largest request head.
    pub(crate) head_size: ByteSize,
    /// The largest request target.
    pub(crate) target_size: ByteSize,
    /// The most headers of a request.
    pub(crate) headers: usize,
    /// How long open requests may take after SIGTERM.
    pub(crate) drain: Duration,
}

/// `[log]`.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: tracing::Level,
    /// Whether each request is logged.
    pub(crate) access: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_directory_is_systemds_the_systems_or_the_users() {
        let other = Environment {
            state_directory: None,
            runtime_directory: None,
            user: User::Other,
            data_home: None,
            home: Some("/home/a".into()),
            sova: PathBuf::new(),
            installed: PathBuf::new(),
        };
        let root = Environment { user: User::Root, ..other.clone() };
        let storage = |environment: Environment| environment.storage().display().to_string();
        assert_eq!(storage(root.clone()), "/var/lib/parley-relay");
        assert_eq!(storage(other.clone()), "/home/a/.local/share/parley-relay");
        let data_home = |path: &str| Environment { data_home: Some(path.into()), ..other.clone() };
        assert_eq!(storage(data_home("/data")), "/data/parley-relay");
        assert_eq!(storage(data_home("data")), "/home/a/.local/share/parley-relay");
        let systemd = Environment { state_directory: Some("/var/lib/a:/var/lib/b".into()), ..root };
        assert_eq!(storage(systemd), "/var/lib/a");
    }

    #[test]
    fn the_control_socket_is_in_systemds_runtime_directory_or_with_the_certificates() {
        let mut environment = Environment { runtime_directory: None, ..Environment::of_process() };
        assert_eq!(environment.control(Path::new("/data")), Path::new("/data"));
        environment.runtime_directory = Some("/run/a:/run/b".into());
        assert_eq!(environment.control(Path::new("/data")), Path::new("/run/a"));
    }
}
