//! The root's name constraints (RFC 5280, section 4.2.1.10): for whom it can vouch, should its key get lost.

use std::net::IpAddr;

use ipnet::IpNet;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::Machine;
use crate::{
    config::ServerName,
    tls::certificate::{CertificateError, address},
};

/// Names for use in one network alone.
const LOCAL_NAMES: [&str; 5] = ["localhost", "local", "lan", "home.arpa", "internal"];

/// Addresses for use in one network alone: private, shared, link-local and loopback ones.
const LOCAL_NETWORKS: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
];

/// The names and addresses that a root can vouch for.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Permitted {
    /// Each with all names below it.
    domains: Vec<Box<str>>,
    networks: Vec<IpNet>,
}

impl Permitted {
    /// Just `names`; for a local CA also the machine's host name and all that is local, so that another
    /// address by DHCP or one more name in the same network needs no new root.
    pub(super) fn new(names: &[ServerName], local: Option<&Machine>) -> Self {
        let (mut domains, mut networks) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                ServerName::Dns(name) => domains.push(name.clone()),
                ServerName::Ip(address) => networks.push(IpNet::from(*address)),
            }
        }
        if let Some(machine) = local {
            domains.extend(machine.host_name.clone());
            domains.extend(LOCAL_NAMES.map(Box::from));
            networks.extend(LOCAL_NETWORKS.iter().filter_map(|network| network.parse::<IpNet>().ok()));
        }
        Self { domains, networks }
    }

    /// Of a root in DER. One without constraints is not of our making, and permits nothing.
    pub(super) fn of_root(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, root) =
            X509Certificate::from_der(der).map_err(|error| CertificateError::X509(error.into()))?;
        let constraints = root.name_constraints().map_err(CertificateError::X509)?;
        let subtrees = constraints.and_then(|extension| extension.value.permitted_subtrees.as_ref());
        let (mut domains, mut networks) = (Vec::new(), Vec::new());
        for subtree in subtrees.into_iter().flatten() {
            if let GeneralName::DNSName(name) = subtree.base {
                domains.push(name.into());
            } else if let GeneralName::IPAddress(octets) = subtree.base {
                networks.extend(network(octets));
            }
        }
        Ok(Self { domains, networks })
    }

    /// Whether the root can vouch for `name`.
    pub(super) fn permits(&self, name: &ServerName) -> bool {
        match name {
            ServerName::Ip(address) => self.networks.iter().any(|network| network.contains(address)),
            ServerName::Dns(name) => self.domains.iter().any(|domain| {
                name.strip_suffix(&**domain).is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }),
        }
    }

    /// As the extension. Kinds of names that are not in it are free, so that without any address all
    /// addresses are excluded; there is always a domain or else all of [`LOCAL_NAMES`].
    pub(super) fn to_constraints(&self) -> NameConstraints {
        let domains = self.domains.iter().map(|name| GeneralSubtree::DnsName(name.to_string()));
        let networks = self.networks.iter().map(subtree);
        let everywhere = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
        NameConstraints {
            permitted_subtrees: domains.chain(networks).collect(),
            excluded_subtrees: match *self.networks {
                [] => everywhere.iter().map(subtree).collect(),
                [..] => Vec::new(),
            },
        }
    }
}

fn subtree(network: &IpNet) -> GeneralSubtree {
    // Bits below the mask are zero, as verifiers want them.
    let network = network.trunc();
    GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(network.addr(), network.prefix_len()))
}

/// An address and a mask, each half of `octets`.
fn network(octets: &[u8]) -> Option<IpNet> {
    let half = |octets: &[u8]| -> Option<IpAddr> { address(octets) };
    let (start, mask) = octets.split_at_checked(octets.len() / 2)?;
    IpNet::with_netmask(half(start)?, half(mask)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<ServerName> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn permits(permitted: &Permitted, text: &str) -> bool {
        permitted.permits(&text.parse().unwrap())
    }

    #[test]
    fn a_public_name_permits_itself_and_what_is_below_it() {
        let permitted = Permitted::new(&names(&["chat.example.org"]), None);
        assert!(permits(&permitted, "chat.example.org"));
        assert!(permits(&permitted, "a.chat.example.org"));
        for no in ["example.org", "xchat.example.org", "localhost", "192.168.1.1", "::1"] {
            assert!(!permits(&permitted, no), "{no}");
        }
        assert_eq!(permitted.to_constraints().excluded_subtrees.len(), 2);
    }

    #[test]
    fn a_local_ca_permits_all_that_is_local_and_nothing_else() {
        let machine = Machine { host_name: Some("tower".into()), addresses: Vec::new() };
        let permitted = Permitted::new(&names(&["203.0.113.7", "2001:db8::7"]), Some(&machine));
        for yes in [
            "203.0.113.7",
            "2001:db8::7",
            "tower",
            "localhost",
            "a.local",
            "b.lan",
            "c.home.arpa",
            "d.internal",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "100.64.1.1",
            "fd00::1",
            "fe80::1",
            "::1",
        ] {
            assert!(permits(&permitted, yes), "{yes}");
        }
        for no in
            ["203.0.113.8", "2001:db8::8", "172.32.0.1", "example.org", "notlocal", "arpa", "::2", "11.0.0.1"]
        {
            assert!(!permits(&permitted, no), "{no}");
        }
        assert!(permitted.to_constraints().excluded_subtrees.is_empty());
    }

    #[test]
    fn all_local_networks_are_networks() {
        let permitted = Permitted::new(&[], Some(&Machine::default()));
        assert_eq!(permitted.networks.len(), LOCAL_NETWORKS.len());
    }
}
