//! The configuration: typed, and valid by construction.
//!
//! [`raw`] mirrors the file, [`load`] turns it into a [`Config`] or reports every fault at once. A `Config`
//! is taken apart when the relay is bound; no leaf function ever sees a whole one.

pub(crate) mod types;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use http::HeaderName;
use ipnet::IpNet;

pub(crate) use types::{BackendUrl, ByteSize, FrontendUrl, ProxyUrl, Secret, ServerName, UriPrefix};

use crate::rules::Rules;

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
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// The names and addresses that are served, the first being the one that redirects fall back to.
    pub(crate) names: Vec<ServerName>,
    pub(crate) certificates: CertificateSource,
    /// Where keys and certificates are kept.
    pub(crate) storage: PathBuf,
    pub(crate) unknown_names: UnknownNames,
    /// `Strict-Transport-Security`'s `max-age`; `None`: the header is not sent.
    pub(crate) hsts: Option<Duration>,
}

/// Where certificates come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CertificateSource {
    /// PEM files, read anew when they change.
    Files { cert: PathBuf, key: PathBuf },
    /// A root and a leaf of our own, kept in the storage directory.
    LocalCa,
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
    /// The most connections that are open to it at once.
    pub(crate) max_connections: usize,
    pub(crate) timeouts: Timeouts,
}

/// How long the way to an origin may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Until a connection stands, proxies and TLS included.
    pub(crate) connect: Duration,
    /// From the last byte of the request to the response's head.
    pub(crate) response: Duration,
    /// Between two bytes of a body; event streams are exempt.
    pub(crate) idle: Duration,
    /// How long a request waits for a free connection.
    pub(crate) queue: Duration,
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
    /// From accept to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub(crate) request_head: Duration,
    /// Between two bytes of a client's body, and between two writes that the client takes.
    pub(crate) idle_body: Duration,
    /// Between two requests on a connection.
    pub(crate) idle_connection: Duration,
    /// The largest request head.
    pub(crate) head_size: ByteSize,
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
