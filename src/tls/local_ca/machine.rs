//! What the machine itself is called, for clients on its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ServerName;

/// The machine's host name and addresses at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// `None`: it has none that could be in a certificate.
    pub(super) host_name: Option<Box<str>>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Machine {
    /// As the system tells it; what it does not tell is left out.
    pub(crate) fn current() -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        Self {
            host_name: match host_name.trim().parse() {
                Ok(ServerName::Dns(name)) => Some(name),
                Ok(ServerName::Ip(_)) | Err(_) => None,
            },
            // Link-local IPv6 addresses need a zone, which no URL has.
            addresses: interfaces
                .iter()
                .map(if_addrs::Interface::ip)
                .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
                .collect(),
        }
    }

    /// Whether the address is one of its own.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address.to_canonical())
    }

    /// A machine with these addresses and no name.
    #[cfg(test)]
    pub(crate) fn with_addresses<const N: usize>(addresses: [&str; N]) -> Self {
        Self { host_name: None, addresses: addresses.map(|address| address.parse().unwrap()).to_vec() }
    }

    /// All that reaches it from itself and from its network.
    pub(super) fn names(&self) -> Vec<ServerName> {
        let mut names = Vec::new();
        if let Some(name) = &self.host_name {
            let label = name.split('.').next().unwrap_or(name);
            names.push(ServerName::Dns(name.clone()));
            // What multicast DNS announces it as.
            names.push(ServerName::Dns(format!("{label}.local").into()));
        }
        names.push(ServerName::Dns("localhost".into()));
        names.push(ServerName::Ip(Ipv4Addr::LOCALHOST.into()));
        names.push(ServerName::Ip(Ipv6Addr::LOCALHOST.into()));
        names.extend(self.addresses.iter().copied().map(ServerName::Ip));
        names
    }
}
