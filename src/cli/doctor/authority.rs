//! The CAs: whether they can be reached, whether they have what is configured, and what time it is there.

use time::{Duration, OffsetDateTime};

use super::{
    Finding,
    name_servers::{NameServers, SILENT, next_hop},
};
use crate::{
    acme::{self, Introduction},
    config::{
        ProxyUrl,
        acme::{AcmeConfig, Directory},
    },
    error::Chain,
};

/// A clock that is off by more makes new certificates, and tokens of others, not valid yet or any more.
const CLOCK_DOUBT: Duration = Duration::minutes(1);
const CLOCK_FAULT: Duration = Duration::HOUR;

/// Asks every CA for its directory. Gives with it what those are called in CAA records that answered.
pub(super) async fn look(
    config: &AcmeConfig,
    servers: NameServers,
    now: OffsetDateTime,
) -> (Vec<Finding>, Vec<String>) {
    let (mut findings, mut identities) = (Vec::new(), Vec::new());
    let mut clock = None;
    let began = std::time::Instant::now();
    let (mut errors, mut unfound) = (Vec::new(), Vec::new());
    for directory in &config.directories {
        if let Some(origin) = directory.url.authority()
            && servers.hide(next_hop(origin, config.authority.proxy.as_ref())).await
        {
            unfound.push(format!("{directory} is not found: {SILENT}"));
            continue;
        }
        match acme::introduce(&config.authority, directory).await {
            Ok(told) => {
                let now = now + began.elapsed();
                clock = clock.or_else(|| Some(in_step(directory, now, told.date?)));
                findings.push(fits(config, directory, &told));
                identities.extend(told.caa_identities);
            }
            Err(error) => errors.push(format!("{directory} gives no directory: {}", Chain(&error))),
        }
    }
    // With another CA that answers there are certificates all the same.
    let is_fault = findings.is_empty();
    let advice = match &config.authority.proxy {
        Some(ProxyUrl { authority, .. }) => {
            format!("the way goes through [tls.acme] proxy at {authority}: does it run, and let this through?")
        }
        None => {
            "where the network is filtered, [tls.acme] proxy = \"upstream\", or a proxy's URL, leads around it"
                .into()
        }
    };
    let errors = errors.into_iter().map(|error| (error, &*advice));
    // What to do about a name server has been said.
    for (error, advice) in errors.chain(unfound.into_iter().map(|error| (error, ""))) {
        findings.push(if is_fault {
            Finding::fault("authority", error, advice)
        } else {
            Finding::doubt("authority", error, advice)
        });
    }
    findings.extend(clock);
    (findings, identities)
}

/// Whether a CA has what is configured of it.
fn fits(config: &AcmeConfig, directory: &Directory, told: &Introduction) -> Finding {
    if told.wants_external_account && config.authority.external_account.is_none() {
        return Finding::fault(
            "authority",
            format_args!("{directory} wants an account that was made on its site"),
            "it gives a key for it: [tls.acme] eab_kid and eab_hmac_file",
        );
    }
    let offered = told.profiles.join(", ");
    if let Some(profile) = &config.profile
        && !told.profiles.contains(profile)
    {
        return Finding::fault(
            "authority",
            format_args!("{directory} has no profile {profile:?}"),
            if offered.is_empty() {
                "it has none: leave [tls.acme] profile out".to_owned()
            } else {
                format!("[tls.acme] profile can be: {offered}")
            },
        );
    }
    let renewal =
        if told.has_renewal_info { "says when to renew (ARI)" } else { "has no renewal information" };
    Finding::well("authority", format_args!("{directory} answers, and {renewal}"))
}

fn in_step(directory: &Directory, now: OffsetDateTime, there: OffsetDateTime) -> Finding {
    let off = (now - there).abs();
    let side = if now > there { "ahead of" } else { "behind" };
    let host = directory.url.host().unwrap_or_default();
    let text = format!("this machine is {} s {side} {host}", off.whole_seconds());
    let advice = "set it, and have it kept: timedatectl set-ntp true";
    if off >= CLOCK_FAULT {
        Finding::fault("clock", text, advice)
    } else if off >= CLOCK_DOUBT {
        Finding::doubt("clock", text, advice)
    } else {
        Finding::well("clock", format_args!("in step with {host}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};
    use time::macros::datetime;

    #[test]
    fn a_clock_is_in_step_or_is_told_how_far_it_is_off() {
        let there = datetime!(2026-11-25 12:00 UTC);
        let at = |off: Duration| {
            let finding = in_step(&Directory::default(), there + off, there);
            (finding.grade, finding.text)
        };
        assert_eq!(at(Duration::seconds(-3)).0, Grade::Well);
        let (grade, text) = at(Duration::seconds(-90));
        assert_eq!(grade, Grade::Doubt);
        assert_eq!(text, "this machine is 90 s behind acme-v02.api.letsencrypt.org");
        let (grade, text) = at(Duration::days(1));
        assert_eq!(grade, Grade::Fault);
        assert!(text.contains("86400 s ahead of"), "{text}");
    }
}
