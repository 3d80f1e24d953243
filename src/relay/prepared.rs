//! What a configuration makes, before any of it is in force: all that can fail has been done.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderValue;
use time::OffsetDateTime;

use super::{StartError, edge::Edge};
use crate::{
    access::AccessLog,
    admission::Clients,
    client::Trust,
    config::{ByteSize, CertificateSource, Config, FileRead, Log, LogFormat, ServerName},
    connection::{self, Heads, ProxyProtocol, Purpose, Service},
    control::{Reporter, Served},
    drain::Drain,
    least_rate::LeastRate,
    metrics::Metrics,
    ports::{Had, Ports, Role, Wanted},
    site::{Plan, Site, Sites},
    storage::Storage,
    tls::{Predecessor, names::Names},
    wire::Bounds,
};

/// A configuration that can be put in force.
pub(super) struct Prepared {
    pub(super) site: Site,
    pub(super) ports: Vec<(Had, Purpose)>,
    pub(super) serving: Serving,
    pub(super) tls: Secured,
    pub(super) names: Vec<ServerName>,
    /// Where people find it: the first name's URL, or the address over plain HTTP.
    pub(super) url: String,
    /// Open client connections, all ports together.
    pub(super) connections: usize,
    /// How long open requests may take once the drain has begun.
    pub(super) drain_for: Duration,
    pub(super) log: Log,
    /// Where the control socket lies.
    pub(super) control: PathBuf,
    /// What this was read from.
    pub(super) files: Vec<FileRead>,
    /// What is told there of the certificates.
    pub(super) served: Option<Served>,
}

/// What becomes of TLS.
pub(super) enum Secured {
    /// Plain HTTP.
    Not,
    /// As it is.
    Same,
    New(Box<Edge>),
}

/// How connections are served, whatever they are for.
pub(super) struct Serving {
    limits: connection::Limits,
    handshake: Duration,
    proxy_protocol: ProxyProtocol,
    clients: Clients,
    per_client: usize,
    metrics: Arc<Metrics>,
}

/// What the relay has already.
pub(super) struct Present<'a> {
    pub(super) ports: &'a Ports,
    pub(super) drain: &'a Drain,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) clients: &'a Clients,
    pub(super) site: Option<&'a Site>,
    pub(super) edge: Option<&'a Edge>,
    pub(super) predecessor: Predecessor,
}

impl Prepared {
    /// Takes a configuration apart, binds the ports that are not open yet, opens certificates.
    pub(super) fn new(config: Config, present: Present<'_>) -> Result<Self, StartError> {
        let Config {
            uri_prefix,
            server,
            tls,
            backend,
            upstream_proxy,
            frontend,
            limits,
            log,
            rules,
            control,
            files,
        } = config;
        let wanted = |role, port| Wanted { role, host: server.host, port };
        let have = |role, port| present.ports.have(wanted(role, port)).map_err(StartError::Bind);
        let main = have(Role::Main, server.port)?;
        let source = backend.timeouts.idle;
        let hsts = tls.as_ref().and_then(|tls| tls.hsts).map(hsts);
        let mut ports = Vec::new();
        let mut names = Vec::new();
        let mut served = None;
        let (tls, url) = match tls {
            None => {
                let url = format!("http://{}/", main.address);
                ports.push((main, Purpose::Http));
                (Secured::Not, url)
            }
            Some(mut tls) => {
                // Of each response, and none of the certificates' business.
                tls.hsts = None;
                // Every port before the first certificate: what fails has made nothing then.
                let redirect = server.http_port.map(|port| have(Role::Redirect, port)).transpose()?;
                names.clone_from(&tls.names);
                let by_us = !matches!(tls.certificates, CertificateSource::Files { .. });
                let storage = by_us.then(|| Storage::at(&tls.storage));
                let (secured, certificates, acceptor) = match present.edge {
                    Some(edge) if edge.is(&tls) => {
                        (Secured::Same, Arc::clone(&edge.certificates), edge.acceptor.clone())
                    }
                    before => {
                        let edge =
                            Edge::open(tls, before, present.predecessor).map_err(StartError::Certificates)?;
                        let (certificates, acceptor) =
                            (Arc::clone(&edge.certificates), edge.acceptor.clone());
                        (Secured::New(Box::new(edge)), certificates, acceptor)
                    }
                };
                served = Some(Served { certificates: Arc::clone(&certificates), storage });
                let https_port = main.address.port();
                let names = Names { certificates, configured: names.clone().into() };
                let url = names.url(https_port);
                if let Some(redirect) = redirect {
                    ports.push((redirect, Purpose::Redirect { names: names.clone(), https_port }));
                }
                ports.push((main, Purpose::Https { acceptor, names }));
                (secured, url)
            }
        };
        let least_rate = LeastRate { pause: limits.idle_body, bytes_per_second: limits.least_rate };
        let size = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        let bounds = Bounds {
            head: size(limits.head_size),
            target: size(limits.target_size),
            headers: limits.headers,
        };
        let serving = Serving {
            limits: connection::Limits {
                idle: limits.idle_connection,
                heads: Heads { within: limits.request_head, bounds },
                rate: least_rate,
                source,
            },
            handshake: limits.handshake,
            proxy_protocol: if server.proxy_protocol {
                ProxyProtocol::FromTrusted
            } else {
                ProxyProtocol::Off
            },
            clients: present.clients.clone(),
            per_client: limits.connections_per_client,
            metrics: Arc::clone(present.metrics),
        };
        let plan = Plan {
            uri_prefix,
            rules,
            backend,
            upstream_proxy,
            frontend,
            trust: Trust::new(server.trusted_proxies, server.client_ip_header),
            hsts,
            access: access_log(&log),
            max_content_length: server.max_content_length.0,
            least_rate,
            requests_per_second: limits.requests_per_second,
            metrics: Arc::clone(present.metrics),
        };
        let site = Site::build(plan, present.drain, present.site).map_err(StartError::Site)?;
        let (connections, drain_for) = (limits.connections, limits.drain);
        Ok(Self {
            site,
            ports,
            serving,
            tls,
            names,
            url,
            connections,
            drain_for,
            log,
            control,
            files,
            served,
        })
    }

    /// Where the main port listens.
    pub(super) fn main_address(&self) -> Option<SocketAddr> {
        // It is pushed last.
        self.ports.last().map(|(had, _)| had.address)
    }
}

impl Serving {
    /// What is told at the control socket.
    pub(super) fn reporter(
        &self,
        most_connections: usize,
        files: Vec<FileRead>,
        served: Option<Served>,
        sites: &Sites,
    ) -> Reporter {
        Reporter {
            metrics: Arc::clone(&self.metrics),
            sites: sites.clone(),
            most_connections,
            most_per_client: self.per_client,
            loaded: OffsetDateTime::now_utc(),
            files,
            served,
        }
    }

    /// The service of a port.
    pub(super) fn of(&self, purpose: Purpose, sites: &Sites) -> Service {
        Service {
            purpose,
            sites: sites.clone(),
            limits: self.limits,
            handshake: self.handshake,
            proxy_protocol: self.proxy_protocol,
            clients: self.clients.clone(),
            per_client: self.per_client,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// Access lines are of level `info`.
fn access_log(log: &Log) -> AccessLog {
    match log.format {
        _ if !log.access || log.level < tracing::Level::INFO => AccessLog::Off,
        LogFormat::Text => AccessLog::Text,
        LogFormat::Json => AccessLog::Json,
    }
}

fn hsts(age: Duration) -> HeaderValue {
    // A fixed name and decimal digits are visible ASCII.
    HeaderValue::try_from(format!("max-age={}", age.as_secs()))
        .unwrap_or(HeaderValue::from_static("max-age=0"))
}
