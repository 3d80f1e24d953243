//! Names: whether they lead here, and whether their owner lets the CA issue for them.

use std::{collections::BTreeSet, io, net::IpAddr};

use super::{
    Finding,
    name_servers::{NameServers, SILENT},
};
use crate::{
    acme,
    config::{ServerName, Subject},
    tls::local_ca::Machine,
};

/// Looks every name up, as programs on this machine do.
pub(super) async fn look(names: &[ServerName], servers: NameServers, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in names {
        findings.push(match name {
            ServerName::Ip(address) if machine.has(*address) => {
                Finding::well("names", format_args!("{address} is this machine's"))
            }
            ServerName::Ip(address) => Finding::doubt(
                "names",
                format_args!("this machine does not have {address}"),
                "right where a router or a provider leads that address here",
            ),
            ServerName::Dns(dns) if name.is_loopback() => Finding::well(
                "names",
                format_args!("{dns} leads each machine to itself: other devices do not come here by it"),
            ),
            ServerName::Dns(dns) if name.is_local() => Finding::well(
                "names",
                format_args!("{dns} is looked up by nobody but the devices of your own network"),
            ),
            ServerName::Dns(dns) => match tokio::net::lookup_host((&**dns, 0)).await {
                Ok(found) => leads(name, &found.map(|found| found.ip().to_canonical()).collect(), machine),
                // What to do about it has been said.
                Err(_) if matches!(servers, NameServers::Silent) => {
                    Finding::fault("names", format_args!("{name} is not found: {SILENT}"), "")
                }
                Err(error) => not_found(name, &error),
            },
        });
    }
    findings
}

fn not_found(name: &ServerName, error: &io::Error) -> Finding {
    Finding::fault(
        "names",
        format_args!("{name} leads nowhere: {error}"),
        "it needs an A record with this machine's public address, and an AAAA record only if that works too;\n\
         where it has one, this machine cannot ask for it: /etc/resolv.conf",
    )
}

/// Whether the addresses that a name has are this machine's.
fn leads(name: &ServerName, found: &BTreeSet<IpAddr>, machine: &Machine) -> Finding {
    let list = |addresses: Vec<String>| addresses.join(", ");
    let all = list(found.iter().map(IpAddr::to_string).collect());
    let strange = found.iter().filter(|address| !machine.has(**address));
    let strange = list(strange.map(IpAddr::to_string).collect());
    if all.is_empty() {
        not_found(name, &io::Error::other("it has no address"))
    } else if found.iter().all(IpAddr::is_loopback) {
        Finding::doubt(
            "names",
            format_args!("{name} leads to {all} on this machine"),
            "its /etc/hosts says so, most likely: where others are led cannot be seen from here",
        )
    } else if strange.is_empty() {
        Finding::well("names", format_args!("{name} leads to this machine: {all}"))
    } else if strange == all {
        Finding::doubt(
            "names",
            format_args!("{name} leads to {all}, which this machine does not have"),
            "right behind a router that forwards the ports, or behind a provider's address or a CDN;\n\
             else its A and AAAA records are to be changed",
        )
    } else {
        Finding::doubt(
            "names",
            format_args!("{name} leads to {all}, and this machine does not have {strange}"),
            "who takes that one comes elsewhere, and CAs like IPv6 best: remove a record that is wrong",
        )
    }
}

/// Whether the names' owners let one of the CAs that are called `identities` issue.
pub(super) async fn may_be_issued(subjects: &[Subject], identities: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if identities.is_empty() {
        return findings;
    }
    for subject in subjects {
        let Ok(Some(rule)) = acme::caa(subject).await else { continue };
        findings.push(if rule.permits(identities) {
            Finding::well("names", format_args!("the CAA records of {} let the CA issue", rule.domain))
        } else {
            Finding::fault(
                "names",
                format_args!("the CAA records of {} let {} issue alone", rule.domain, rule.names()),
                format!("add one: {}. CAA 0 issue \"{}\"", rule.domain, identities[0]),
            )
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};

    fn graded(found: &[&str]) -> (Grade, String) {
        let machine = Machine::with_addresses(["127.0.0.1", "192.0.2.7", "2001:db8::7"]);
        let found = found.iter().map(|address| address.parse().unwrap()).collect();
        let finding = leads(&"chat.example.org".parse().unwrap(), &found, &machine);
        (finding.grade, finding.text)
    }

    #[test]
    fn a_name_leads_here_or_elsewhere_or_both() {
        assert_eq!(graded(&["192.0.2.7", "2001:db8::7"]).0, Grade::Well);
        let (grade, text) = graded(&["192.0.2.7", "2001:db8::9"]);
        assert_eq!(grade, Grade::Doubt);
        assert!(text.ends_with("this machine does not have 2001:db8::9"), "{text}");
        let (grade, text) = graded(&["192.0.2.9"]);
        assert_eq!(grade, Grade::Doubt);
        assert!(text.ends_with("leads to 192.0.2.9, which this machine does not have"), "{text}");
        let (grade, text) = graded(&["127.0.1.1"]);
        assert_eq!(grade, Grade::Doubt);
        assert!(text.ends_with("leads to 127.0.1.1 on this machine"), "{text}");
        assert_eq!(graded(&[]).0, Grade::Fault);
    }

    #[tokio::test]
    async fn an_address_is_this_machines_or_may_be_a_routers() {
        let machine = Machine::with_addresses(["192.0.2.7"]);
        let names = ["192.0.2.7", "192.0.2.9", "localhost", "chat.lan"].map(|name| name.parse().unwrap());
        let grades: Vec<_> =
            look(&names, NameServers::Answer, &machine).await.iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Well, Grade::Doubt, Grade::Well, Grade::Well]);
    }
}
