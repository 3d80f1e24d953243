//! From `[tls.acme]` as it was written to an [`AcmeConfig`].

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

use super::{Names, Surroundings};
use crate::{
    acme::dns::hook,
    config::{
        AcmeConfig, ServerName, Subject, Warning,
        acme::{
            Authority, ChallengeKind, Directory, DnsConfig, ExternalAccount, KeyType, ProxyChoice, Transport,
        },
        error::{Faults, Reason},
        raw::{RawAcme, RawAcmeDns},
        setting::Setting,
    },
};

/// `[tls.acme]`, for names that a CA is to issue for.
pub(super) fn acme(
    raw: RawAcme,
    names: Names,
    surroundings: Surroundings<'_>,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> AcmeConfig {
    if let Setting::Given(false, place) = &raw.accept_terms {
        let reason = Reason::Rule(
            "no CA gives certificates to who does not accept its terms: set it to true, or take another `mode`",
        );
        faults.add("tls.acme.accept_terms", reason, Some(place.clone()));
    }
    let transport =
        if raw.allow_insecure_directory.or(false) { Transport::HttpOnLoopback } else { Transport::HttpsOnly };
    let external_account = external_account(&raw.eab_kid, &raw.eab_hmac_file, faults);
    raw.ca_root.readable("tls.acme.ca_root", faults);
    executable(&raw.on_failure, "tls.acme.on_failure", faults);
    let proxy = match raw.proxy {
        Setting::Given(ProxyChoice::Own(url), _) => Some(url),
        Setting::Given(ProxyChoice::Upstream, place) => {
            if surroundings.upstream_proxy.is_none() {
                let reason = Reason::Rule("`upstream` is [upstream_proxy], and that is not enabled");
                faults.add("tls.acme.proxy", reason, Some(place));
            }
            surroundings.upstream_proxy.cloned()
        }
        Setting::Absent | Setting::Faulty => None,
    };
    let dns = dns(raw.dns, faults);
    if names.public.iter().any(|subject| subject.to_string().contains('_')) {
        let reason = Reason::Rule("no CA issues for a name with an underscore in it");
        faults.add("tls.domains", reason, names.place.clone());
    }
    let stands = raw.challenges.as_given().is_some_and(|kinds| kinds.contains(&ChallengeKind::DnsPersist01));
    if names.public.iter().any(|subject| subject.as_name().is_none()) && !dns.can_solve() && !stands {
        let text = "a wildcard is shown by the DNS alone: without `hook` or `listen` in [tls.acme.dns], and \
                    without dns-persist-01 in `challenges`, its certificate comes by hand, with `parley-relay cert issue --dns-manual`";
        warnings.push(Warning::new(text, names.place.clone()));
    }
    let profile_place = raw.profile.place();
    let directories = directories(raw.directory, transport, faults);
    let challenges = challenges(raw.challenges, surroundings.http_port, &dns, faults, warnings);
    let profile = raw.profile.given();
    if names.public.iter().any(|subject| matches!(subject, Subject::Name(ServerName::Ip(_)))) {
        if profile.as_deref().is_some_and(|profile| profile != "shortlived")
            && directories.iter().all(Directory::is_lets_encrypt)
        {
            let text = "Let's Encrypt gives an IP address no certificate of this profile: leave `profile` out, \
                        and addresses get \"shortlived\"";
            warnings.push(Warning::new(text, profile_place));
        }
        // RFC 8738, section 7.
        if !challenges.is_empty()
            && !challenges.iter().any(|kind| matches!(kind, ChallengeKind::TlsAlpn01 | ChallengeKind::Http01))
        {
            let text = "an IP address is not shown by the DNS: allow tls-alpn-01 or http-01 in `challenges`";
            warnings.push(Warning::new(text, names.place));
        }
    }
    AcmeConfig {
        subjects: names.public,
        local: names.local,
        authority: Authority {
            email: raw.email.given(),
            external_account,
            ca_root: raw.ca_root.given(),
            proxy,
            transport,
        },
        directories,
        challenges,
        profile,
        key_type: raw.key_type.or(KeyType::P256),
        fallback: raw.fallback.given(),
        on_failure: raw.on_failure.given(),
        dns,
    }
}

fn directories(raw: Setting<Vec<Directory>>, transport: Transport, faults: &mut Faults) -> Vec<Directory> {
    let Setting::Given(directories, place) = raw else {
        return vec![Directory::default()];
    };
    let allowed = |directory: &Directory| {
        directory.is_https() || transport == Transport::HttpOnLoopback && directory.is_on_loopback()
    };
    if !directories.iter().all(allowed) {
        let reason = Reason::Rule("the URL of a directory begins with https://");
        faults.add("tls.acme.directory", reason, Some(place));
    } else if directories.is_empty() {
        let reason = Reason::Rule("give at least one CA, or leave the key out for Let's Encrypt");
        faults.add("tls.acme.directory", reason, Some(place));
    }
    directories
}

/// Those that can work here, in the order given.
fn challenges(
    raw: Setting<Vec<ChallengeKind>>,
    http_port: Option<u16>,
    dns: &DnsConfig,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> Vec<ChallengeKind> {
    let place = raw.place();
    let is_default = raw.as_given().is_none_or(|kinds| kinds == &ChallengeKind::DEFAULT);
    let mut wanted = raw.given().unwrap_or_else(|| ChallengeKind::DEFAULT.to_vec());
    wanted.retain(|kind| {
        let missing = match kind {
            ChallengeKind::Http01 if http_port.is_none() => "http-01 needs `http_port` in [server]",
            ChallengeKind::Dns01 if !dns.can_solve() => "dns-01 needs `hook` or `listen` in [tls.acme.dns]",
            ChallengeKind::TlsAlpn01
            | ChallengeKind::Http01
            | ChallengeKind::Dns01
            | ChallengeKind::DnsPersist01 => return true,
        };
        // All of them means all that are possible.
        if !is_default {
            warnings.push(Warning::new(missing, place.clone()));
        }
        false
    });
    if wanted.is_empty() && place.is_some() {
        let reason = Reason::Rule("none of the challenges can work here: allow tls-alpn-01");
        faults.add("tls.acme.challenges", reason, place);
    }
    wanted
}

fn dns(raw: RawAcmeDns, faults: &mut Faults) -> DnsConfig {
    executable(&raw.hook, "tls.acme.dns.hook", faults);
    DnsConfig {
        hook: raw.hook.given(),
        listen: raw.listen.given().map(|listen| -> SocketAddr { listen.0 }),
        propagation: raw.propagation.or(Duration::from_secs(120)),
    }
}

/// `eab_kid` with the key in `eab_hmac_file`.
fn external_account(
    kid: &Setting<String>,
    file: &Setting<PathBuf>,
    faults: &mut Faults,
) -> Option<ExternalAccount> {
    file.readable("tls.acme.eab_hmac_file", faults);
    match (kid, file) {
        (Setting::Given(kid, _), Setting::Given(file, place)) => {
            // What cannot be read has been noted.
            let text = fs::read_to_string(file).ok()?;
            // CAs show it with and without padding.
            match BASE64URL.decode(text.trim().trim_end_matches('=')) {
                Ok(key) if !key.is_empty() => Some(ExternalAccount { kid: kid.clone(), key }),
                Ok(_) | Err(_) => {
                    let reason = Reason::Rule(
                        "the file does not hold the key as the CA shows it: one line of base64url (A-Z a-z 0-9 - _)",
                    );
                    faults.add("tls.acme.eab_hmac_file", reason, Some(place.clone()));
                    None
                }
            }
        }
        (Setting::Given(_, place), Setting::Absent) => {
            let reason = Reason::Rule("an external account needs `eab_hmac_file`");
            faults.add("tls.acme.eab_kid", reason, Some(place.clone()));
            None
        }
        (Setting::Absent, Setting::Given(_, place)) => {
            let reason = Reason::Rule("the key of an external account needs its `eab_kid`");
            faults.add("tls.acme.eab_hmac_file", reason, Some(place.clone()));
            None
        }
        (Setting::Absent | Setting::Faulty, _) | (_, Setting::Faulty) => None,
    }
}

/// Notes a fault when the program that a key names cannot be run.
fn executable(setting: &Setting<PathBuf>, key: &'static str, faults: &mut Faults) {
    let Setting::Given(program, place) = setting else {
        return;
    };
    if let Err(error) = hook::check(program) {
        faults.add(key, Reason::Value(Box::new(error)), Some(place.clone()));
    }
}
