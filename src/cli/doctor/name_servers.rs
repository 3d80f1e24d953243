//! Name servers: whether any answers. Without one nothing that has a name is found, and that is told once.

use std::net::IpAddr;

use http::uri::Authority;

use super::Finding;
use crate::{
    acme::dns::Resolvers,
    config::{CertificateSource, Config, ProxyUrl, ServerName},
};

/// What a line says that failed for want of one.
pub(super) const SILENT: &str = "no name server answers";

/// Whether names can be looked up here.
#[derive(Clone, Copy)]
pub(super) enum NameServers {
    Answer,
    Silent,
}

impl NameServers {
    /// Asks them, if `config` has a name that is to be looked up.
    pub(super) async fn look(config: &Config) -> (Self, Option<Finding>) {
        let Some(name) = looked_up(config).into_iter().find(|host| !is_known(host)) else {
            return (Self::Answer, None);
        };
        match Resolvers::of_machine().silent(&name).await {
            Ok(None) => (Self::Answer, None),
            Ok(Some(servers)) => {
                let servers: Vec<_> = servers.iter().map(IpAddr::to_string).collect();
                let finding = Finding::fault(
                    "names",
                    format_args!("{SILENT}: /etc/resolv.conf leads to {}", servers.join(", ")),
                    "has this machine a network? if so, have a server there that answers: your provider's,\n\
                     or where the network is filtered, the one that is left open in it",
                );
                (Self::Silent, Some(finding))
            }
            Err(error) => (Self::Silent, Some(Finding::fault("names", error, ""))),
        }
    }

    /// Whether there is no use in asking `host`: no server answers, and this machine does not know it by itself.
    pub(super) async fn hide(self, host: &str) -> bool {
        match self {
            Self::Answer => false,
            Self::Silent => !is_known(host) && tokio::net::lookup_host((host, 0)).await.is_err(),
        }
    }
}

/// The host that is connected to on the way to `origin`.
pub(super) fn next_hop<'a>(origin: &'a Authority, proxy: Option<&'a ProxyUrl>) -> &'a str {
    let next = proxy.map_or(origin, |proxy| &proxy.authority);
    next.host().trim_start_matches('[').trim_end_matches(']')
}

/// Every host that is looked up, here, for a relay with this configuration.
fn looked_up(config: &Config) -> Vec<String> {
    let Config { tls, backend, upstream_proxy, .. } = config;
    let mut hosts = Vec::new();
    if let Some(tls) = tls {
        if let CertificateSource::Acme(acme) = &tls.certificates {
            let proxy = acme.authority.proxy.as_ref();
            let directories = acme.directories.iter().filter_map(|directory| directory.url.authority());
            hosts.extend(directories.map(|directory| next_hop(directory, proxy).to_owned()));
        }
        hosts.extend(tls.names.iter().filter(|name| !name.is_local()).map(ServerName::to_string));
    }
    hosts.push(next_hop(&backend.url.authority, upstream_proxy.as_ref()).to_owned());
    hosts
}

/// Whether nobody has to be asked for it.
fn is_known(host: &str) -> bool {
    host.parse().is_ok_and(|name: ServerName| matches!(name, ServerName::Ip(_)) || name.is_loopback())
}
