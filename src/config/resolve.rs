//! From what was written to a [`Config`]: defaults, and keys that go together or do not.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::HeaderName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Config, Environment, FileRead, Frontend, Log, LogFormat, Server, Warning, backend, certificates,
    error::{Faults, Reason},
    limits, paths,
    raw::{FrontendMode, Raw, RawFrontend, RawLog, RawServer, RawUpstreamProxy, TlsMode},
    setting::Setting,
    source::{Place, Source},
    types::{BindHost, ByteSize, ServerName, Subject, TrustedPeer},
    units::HttpPort,
    url::ProxyUrl,
};

/// What the main listener speaks: many defaults depend on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Https,
    /// For use behind another proxy.
    PlainHttp,
}

/// Makes the configuration; where a fault is noted, what is made is of no use.
///
/// `source` is the file, where there is one: without `[[paths]]` it is taken at its word, and flags alone get
/// the backend's own routes.
pub(crate) fn resolve(
    raw: Raw,
    source: Option<Arc<Source>>,
    environment: &Environment,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
    files: Vec<FileRead>,
) -> Config {
    let Raw {
        version: _,
        uri_prefix,
        server,
        tls,
        backend: raw_backend,
        upstream_proxy,
        frontend,
        limits: raw_limits,
        log,
        paths: entries,
    } = raw;
    let uri_prefix = uri_prefix.or_default();
    let storage = tls.as_ref().and_then(|tls| tls.storage.as_given()).cloned();
    let protocol = match &tls {
        Some(tls) if tls.mode.as_given() != Some(&TlsMode::Off) => Protocol::Https,
        Some(_) | None => Protocol::PlainHttp,
    };
    let back_door = paths::BackDoor::find(&frontend, &raw_backend.url);
    let whole_file = source.map(Place::File);
    let rules = match (entries, &whole_file) {
        (Setting::Given(entries, _), _) if !entries.is_empty() => {
            paths::rules(entries, &uri_prefix, back_door.as_ref(), faults, warnings)
        }
        (Setting::Given(..) | Setting::Absent, Some(file)) => {
            let text = "the file has no [[paths]]: everything goes to the front end";
            warnings.push(Warning::new(text, Some(file.clone())));
            paths::rules(Vec::new(), &uri_prefix, None, faults, warnings)
        }
        (Setting::Given(..) | Setting::Absent | Setting::Faulty, _) => paths::default_rules(&uri_prefix),
    };
    let (host_place, port_place) = (server.host.place(), server.port.place());
    let server = self::server(server, protocol, faults, warnings);
    if let Some(names) = tls.as_ref().and_then(|tls| tls.domains.as_given())
        && protocol == Protocol::Https
    {
        warn_of_a_host_that_only_this_machine_reaches(&server, host_place, names, warnings);
    }
    let upstream_proxy = self::upstream_proxy(upstream_proxy, faults);
    if let Some(backend) = raw_backend.url.as_given().cloned().unwrap_or_default().loopback()
        && backend.port() == server.port
        && (server.host.is_unspecified() || server.host == *backend.ip())
        && upstream_proxy.is_none()
    {
        faults.add(
            "server.port",
            Reason::Rule("the backend's own port: `[backend] url` leads there"),
            port_place,
        );
    }
    Config {
        tls: tls.filter(|_| protocol == Protocol::Https).map(|tls| {
            let surroundings = certificates::Surroundings {
                environment,
                http_port: server.http_port,
                upstream_proxy: upstream_proxy.as_ref(),
            };
            certificates::tls(tls, surroundings, faults, warnings)
        }),
        server,
        backend: backend::backend(raw_backend, upstream_proxy.as_ref(), faults),
        upstream_proxy,
        frontend: self::frontend(frontend, whole_file, faults, warnings),
        limits: limits::limits(raw_limits, faults, warnings),
        log: self::log(log),
        control: environment.control(&storage.unwrap_or_else(|| environment.storage())),
        uri_prefix,
        rules,
        files,
    }
}

fn server(raw: RawServer, protocol: Protocol, faults: &mut Faults, warnings: &mut Vec<Warning>) -> Server {
    let (host, port, http_port, trusted) = match protocol {
        Protocol::Https => (Ipv6Addr::UNSPECIFIED.into(), 443, Some(80), Vec::new()),
        Protocol::PlainHttp => (Ipv4Addr::LOCALHOST.into(), 7861, None, loopback()),
    };
    let http_place = raw.http_port.place().or_else(|| raw.port.place());
    let known = !raw.http_port.is_faulty() && !raw.port.is_faulty();
    let port = raw.port.or(port);
    let mut http_port = raw.http_port.or(HttpPort(http_port)).0;
    if http_port.is_some() && protocol == Protocol::PlainHttp {
        let text = "`http_port` redirects to HTTPS, and without [tls] or --domain there is none";
        warnings.push(Warning::new(text, http_place));
        http_port = None;
    } else if known && http_port == Some(port) && port != 0 {
        let reason = Reason::Rule("both listeners are on one port: `port` is HTTPS, `http_port` redirects");
        faults.add("server.http_port", reason, http_place);
    }
    let trusted_proxies: Vec<IpNet> = match raw.trusted_proxies {
        Setting::Given(peers, _) => peers.into_iter().map(|TrustedPeer(network)| network).collect(),
        Setting::Absent | Setting::Faulty => trusted,
    };
    let proxy_place = raw.proxy_protocol.place();
    let proxy_protocol = raw.proxy_protocol.or(false);
    if proxy_protocol && trusted_proxies.is_empty() {
        let text =
            "`proxy_protocol` has no effect: it is read from `trusted_proxies` alone, and there are none";
        warnings.push(Warning::new(text, proxy_place));
    }
    Server {
        host: raw.host.or(BindHost(host)).0,
        port,
        http_port,
        max_content_length: raw.max_content_length.or(ByteSize(64 << 20)),
        trusted_proxies,
        client_ip_header: raw.client_ip_header.or(HeaderName::from_static("x-forwarded-for")),
        proxy_protocol,
    }
}

/// A file that was made for use behind another proxy keeps its `host` when names are given to it.
fn warn_of_a_host_that_only_this_machine_reaches(
    server: &Server,
    place: Option<Place>,
    names: &[Subject],
    warnings: &mut Vec<Warning>,
) {
    let for_others = names.iter().any(|subject| !subject.as_name().is_some_and(ServerName::is_loopback));
    // Who names a proxy in front means it to be on this machine.
    if for_others && server.host.is_loopback() && server.trusted_proxies.is_empty() {
        let text = format!(
            "only this machine can reach it: host is {}; leave host out to listen on all addresses",
            server.host
        );
        warnings.push(Warning::new(text, place));
    }
}

/// 127.0.0.0/8 and ::1: whoever runs there is another proxy on this machine.
fn loopback() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ]
}

fn upstream_proxy(raw: RawUpstreamProxy, faults: &mut Faults) -> Option<ProxyUrl> {
    let Setting::Given(true, place) = raw.enabled else {
        return None;
    };
    if raw.url.is_absent() {
        let reason = Reason::Rule("the proxy is enabled but has no `url`");
        faults.add("upstream_proxy.enabled", reason, Some(place));
    }
    raw.url.given()
}

fn frontend(
    raw: RawFrontend,
    whole_file: Option<Place>,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> Frontend {
    let place = raw.mode.place().or(whole_file);
    match raw.mode.or(FrontendMode::Serve) {
        FrontendMode::Disabled => Frontend::Disabled,
        FrontendMode::Forward => {
            if raw.url.is_absent() {
                let reason = Reason::Rule("mode `forward` needs a `url`");
                faults.add("frontend.mode", reason, place);
            }
            raw.url.given().map_or(Frontend::Disabled, Frontend::Forward)
        }
        FrontendMode::Serve => {
            let Setting::Given(directory, directory_place) = raw.directory else {
                let text = "the front end has no `directory`: what no rule matches is not found";
                warnings.push(Warning::new(text, place));
                return Frontend::Disabled;
            };
            if !directory.is_dir() {
                let text =
                    "there is no such directory: until there is one, what no rule matches is not found";
                warnings.push(Warning::new(text, Some(directory_place)));
            }
            Frontend::Serve {
                directory,
                excluded_paths: raw.excluded_paths.given().unwrap_or_else(|| {
                    ["README.md", "LICENSE.md", ".nojekyll", ".git", "quickrun.js"].map(String::from).to_vec()
                }),
                only_below_prefix: raw.only_below_prefix.or(false),
            }
        }
    }
}

fn log(raw: RawLog) -> Log {
    Log {
        format: raw.format.or(LogFormat::Text),
        level: raw.level.or(tracing::Level::INFO),
        access: raw.access.or(true),
    }
}
