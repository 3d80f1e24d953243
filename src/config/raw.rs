//! The config file as it is written: every key that is known, each value already of its type.
//!
//! Lives only inside [`load`](super::load()): nothing here has a default, and nothing says which keys go together.

mod acme;

use std::{path::PathBuf, time::Duration};

use http::HeaderName;
use toml::de::DeValue;

use super::{
    LogFormat, UnknownNames,
    error::Reason,
    paths::{Code, RuleMethod, Target},
    reader::{Choice, Table, Value, integer},
    setting::Setting,
    source::Place,
    types::{BindHost, ByteSize, Subject, TrustedPeer, UriPrefix},
    units::{Count, HttpPort, OptionalCount, Rate, TimeLimit},
    url::{BackendUrl, FrontendUrl, ProxyUrl},
};

pub(crate) use acme::{RawAcme, RawAcmeDns};

/// The whole file.
#[derive(Default)]
pub(crate) struct Raw {
    pub(crate) version: Setting<Version>,
    pub(crate) uri_prefix: Setting<UriPrefix>,
    pub(crate) server: RawServer,
    /// `None`: no such table, which is plain HTTP.
    pub(crate) tls: Option<RawTls>,
    pub(crate) backend: RawBackend,
    pub(crate) upstream_proxy: RawUpstreamProxy,
    pub(crate) frontend: RawFrontend,
    pub(crate) limits: RawLimits,
    pub(crate) log: RawLog,
    pub(crate) paths: Setting<Vec<RawRule>>,
}

/// `version = 1`, the only one there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version;

/// `[server]`.
#[derive(Default)]
pub(crate) struct RawServer {
    pub(crate) host: Setting<BindHost>,
    pub(crate) port: Setting<u16>,
    pub(crate) http_port: Setting<HttpPort>,
    pub(crate) max_content_length: Setting<ByteSize>,
    pub(crate) trusted_proxies: Setting<Vec<TrustedPeer>>,
    pub(crate) client_ip_header: Setting<HeaderName>,
    pub(crate) proxy_protocol: Setting<bool>,
}

/// `[tls]`.
#[derive(Default)]
pub(crate) struct RawTls {
    /// The table's name in the file; `None`: a flag made it.
    pub(crate) place: Option<Place>,
    pub(crate) mode: Setting<TlsMode>,
    pub(crate) domains: Setting<Vec<Subject>>,
    pub(crate) cert: Setting<PathBuf>,
    pub(crate) key: Setting<PathBuf>,
    pub(crate) storage: Setting<PathBuf>,
    pub(crate) unknown_names: Setting<UnknownNames>,
    pub(crate) hsts: Setting<Hsts>,
    pub(crate) acme: RawAcme,
}

/// `[tls] mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TlsMode {
    Auto,
    Acme,
    SelfSigned,
    Files,
    Off,
}

/// `[backend] client_address`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RawClientAddress {
    Auto,
    Loopback,
    Header,
}

/// A duration; an empty string for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hsts(pub(crate) Option<Duration>);

/// `[backend]`.
#[derive(Default)]
pub(crate) struct RawBackend {
    pub(crate) url: Setting<BackendUrl>,
    pub(crate) ca_file: Setting<PathBuf>,
    pub(crate) client_address: Setting<RawClientAddress>,
    pub(crate) max_connections: Setting<Count>,
    pub(crate) max_streams: Setting<OptionalCount>,
    pub(crate) connect_timeout: Setting<TimeLimit>,
    pub(crate) response_timeout: Setting<TimeLimit>,
    pub(crate) idle_timeout: Setting<TimeLimit>,
    pub(crate) retry_for: Setting<Duration>,
    pub(crate) queue_for: Setting<Duration>,
    pub(crate) hold_streams: Setting<Duration>,
}

/// `[upstream_proxy]`.
#[derive(Default)]
pub(crate) struct RawUpstreamProxy {
    pub(crate) enabled: Setting<bool>,
    pub(crate) url: Setting<ProxyUrl>,
}

/// `[frontend]`.
#[derive(Default)]
pub(crate) struct RawFrontend {
    pub(crate) mode: Setting<FrontendMode>,
    pub(crate) directory: Setting<PathBuf>,
    pub(crate) url: Setting<FrontendUrl>,
    pub(crate) excluded_paths: Setting<Vec<String>>,
    pub(crate) only_below_prefix: Setting<bool>,
}

/// `[frontend] mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FrontendMode {
    Serve,
    Forward,
    Disabled,
}

/// `[limits]`.
#[derive(Default)]
pub(crate) struct RawLimits {
    pub(crate) connections: Setting<Count>,
    pub(crate) connections_per_client: Setting<Count>,
    pub(crate) requests_per_second: Setting<OptionalCount>,
    pub(crate) handshake: Setting<TimeLimit>,
    pub(crate) request_head: Setting<TimeLimit>,
    pub(crate) idle_body: Setting<TimeLimit>,
    pub(crate) idle_connection: Setting<TimeLimit>,
    pub(crate) least_rate: Setting<Rate>,
    pub(crate) head_size: Setting<ByteSize>,
    pub(crate) target_size: Setting<ByteSize>,
    pub(crate) headers: Setting<Count>,
    pub(crate) drain: Setting<Duration>,
}

/// `[log]`.
#[derive(Default)]
pub(crate) struct RawLog {
    pub(crate) format: Setting<LogFormat>,
    pub(crate) level: Setting<tracing::Level>,
    pub(crate) access: Setting<bool>,
}

/// One `[[paths]]` entry.
#[derive(Default)]
pub(crate) struct RawRule {
    /// The entry's header.
    pub(crate) place: Option<Place>,
    pub(crate) prefix: Setting<String>,
    pub(crate) methods: Setting<Vec<RuleMethod>>,
    pub(crate) action: Setting<RuleAction>,
    pub(crate) block_files: Setting<bool>,
    pub(crate) max_size: Setting<ByteSize>,
    pub(crate) target: Setting<Target>,
    pub(crate) code: Setting<Code>,
}

/// `action` of a `[[paths]]` entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RuleAction {
    Proxy,
    Block,
    Redirect,
}

impl Raw {
    /// Reads a whole file; its faults are with the table's reader.
    pub(crate) fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            version: table.take("version"),
            uri_prefix: table.text("uri_prefix"),
            server: table.table("server", RawServer::read).or_default(),
            tls: table.table("tls", RawTls::read).given(),
            backend: table.table("backend", RawBackend::read).or_default(),
            upstream_proxy: table.table("upstream_proxy", RawUpstreamProxy::read).or_default(),
            frontend: table.table("frontend", RawFrontend::read).or_default(),
            limits: table.table("limits", RawLimits::read).or_default(),
            log: table.table("log", RawLog::read).or_default(),
            paths: table.tables("paths", RawRule::read),
        }
    }

    /// The front end is the one that the backend hosts, as `place` says.
    pub(crate) fn forward_frontend_to_backend(&mut self, place: Place) {
        let url =
            FrontendUrl { origin: self.backend.url.as_given().cloned().unwrap_or_default(), base: "".into() };
        self.frontend.mode = Setting::Given(FrontendMode::Forward, place.clone());
        self.frontend.url = Setting::Given(url, place);
    }
}

impl RawServer {
    fn read(table: &mut Table<'_, '_>) -> Self {
        // Of the original, which had a thread a request: accepted, and without effect here.
        let _threads: Setting<Count> = table.take("threads");
        Self {
            host: table.text("host"),
            port: table.take("port"),
            http_port: table.take("http_port"),
            max_content_length: table.take("max_content_length"),
            trusted_proxies: table.list("trusted_proxies"),
            client_ip_header: table.text("client_ip_header"),
            proxy_protocol: table.take("proxy_protocol"),
        }
    }
}

impl RawTls {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            place: table.place(),
            mode: table.take("mode"),
            domains: table.list("domains"),
            cert: table.optional_text("cert"),
            key: table.optional_text("key"),
            storage: table.optional_text("storage"),
            unknown_names: table.take("unknown_names"),
            hsts: table.take("hsts"),
            acme: table.table("acme", RawAcme::read).or_default(),
        }
    }
}

impl RawBackend {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            url: table.text("url"),
            ca_file: table.optional_text("ca_file"),
            client_address: table.take("client_address"),
            max_connections: table.take("max_connections"),
            max_streams: table.take("max_streams"),
            connect_timeout: table.take("connect_timeout"),
            response_timeout: table.take("response_timeout"),
            idle_timeout: table.take("idle_timeout"),
            retry_for: table.take("retry_for"),
            queue_for: table.take("queue_for"),
            hold_streams: table.take("hold_streams"),
        }
    }
}

impl RawUpstreamProxy {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self { enabled: table.take("enabled"), url: table.optional_text("url") }
    }
}

impl RawFrontend {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            mode: table.take("mode"),
            directory: table.optional_text("directory"),
            url: table.optional_text("url"),
            excluded_paths: table.list("excluded_paths"),
            only_below_prefix: table.take("only_below_prefix"),
        }
    }
}

impl RawLimits {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            connections: table.take("connections"),
            connections_per_client: table.take("connections_per_client"),
            requests_per_second: table.take("requests_per_second"),
            handshake: table.take("handshake"),
            request_head: table.take("request_head"),
            idle_body: table.take("idle_body"),
            idle_connection: table.take("idle_connection"),
            least_rate: table.take("least_rate"),
            head_size: table.take("head_size"),
            target_size: table.take("target_size"),
            headers: table.take("headers"),
            drain: table.take("drain"),
        }
    }
}

impl RawLog {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self { format: table.take("format"), level: table.take("level"), access: table.take("access") }
    }
}

impl RawRule {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            place: table.place(),
            prefix: table.text("prefix"),
            methods: table.list("methods"),
            action: table.take("action"),
            block_files: table.take("block_files"),
            max_size: table.take("max_size"),
            target: table.text("target"),
            code: table.take("code"),
        }
    }
}

impl Value for Version {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match integer(value) {
            Some(1) => Ok(Self),
            Some(_) | None => Err(Reason::Rule("this relay reads files with `version = 1`")),
        }
    }
}

impl Value for Hsts {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match value.as_str() {
            Some("") => Ok(Self(None)),
            Some(_) | None => TimeLimit::read(value).map(|TimeLimit(age)| Self(Some(age))),
        }
    }
}

impl Choice for TlsMode {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("acme", Self::Acme),
        ("self-signed", Self::SelfSigned),
        ("files", Self::Files),
        ("off", Self::Off),
    ];
}

impl Choice for RawClientAddress {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("loopback", Self::Loopback), ("header", Self::Header)];
}

impl Choice for UnknownNames {
    const CHOICES: &'static [(&'static str, Self)] = &[("reject", Self::Reject), ("default", Self::Default)];
}

impl Choice for FrontendMode {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("serve", Self::Serve), ("forward", Self::Forward), ("disabled", Self::Disabled)];
}

impl Choice for RuleAction {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("proxy", Self::Proxy), ("block", Self::Block), ("redirect", Self::Redirect)];
}

impl Choice for LogFormat {
    const CHOICES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for tracing::Level {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("error", Self::ERROR),
        ("warn", Self::WARN),
        ("info", Self::INFO),
        ("debug", Self::DEBUG),
        ("trace", Self::TRACE),
    ];
}
