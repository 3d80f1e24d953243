//! Ports: whether the relay answers there, or could.

use std::net::IpAddr;

use http::uri::Scheme;
use time::{Duration, OffsetDateTime};

use super::Finding;
use crate::{
    cli::{
        health::{self, Target},
        status::Meant,
    },
    listener,
    ports::{BindError, Role, Wanted},
    run_file,
};

/// Whatever renews a certificate has done it earlier: those that live for six days are renewed after three.
const SOON: Duration = Duration::days(2);
const UNIT: &str = "parley-relay.service";
/// Where systemd keeps the ports itself: those of these units are the relay's, whatever the config says.
const SOCKETS: [(Role, &str); 2] =
    [(Role::Main, "parley-relay.socket"), (Role::Redirect, "parley-relay-http.socket")];

/// The relay that is looked after.
#[derive(Clone, Copy)]
pub(super) struct Relay<'a> {
    /// Where it says that it runs, beside its control socket.
    pub(super) meant: &'a Meant,
    /// Whether it is the one that systemd starts.
    pub(super) is_installed: bool,
}

/// `target` is its main port; then its address and its redirect port.
pub(super) async fn look(
    relay: Relay<'_>,
    target: Target,
    (host, redirect): (IpAddr, Option<u16>),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if relay.is_installed {
        for (role, unit) in SOCKETS {
            let port = match role {
                Role::Main => Some(target.port),
                Role::Redirect => redirect,
            };
            findings.extend(
                show(unit, &["ActiveState", "Listen"]).await.and_then(|shown| kept(&shown, unit, port)),
            );
        }
    }
    let redirect =
        redirect.map(|port| (Role::Redirect, Target { scheme: Scheme::HTTP, port, ..target.clone() }));
    // What cannot be read is that of a relay whose user we are not.
    let runs = relay.meant.directories.iter().any(|directory| !matches!(run_file::read(directory), Ok(None)));
    if !runs && relay.is_installed {
        findings.extend(unit().await);
    }
    for (role, target) in [(Role::Main, target)].into_iter().chain(redirect) {
        findings.push(if runs { answers(&target).await } else { is_free(role, host, target.port) });
    }
    findings
}

async fn answers(target: &Target) -> Finding {
    match health::ask(target).await {
        Ok(healthy) => {
            let now = OffsetDateTime::now_utc();
            let told = healthy.describe(now);
            let advice = "parley-relay cert list tells when it is renewed, or why not; files are renewed by who made them";
            match healthy.not_after() {
                Some(end) if end <= now => Finding::fault("ports", told, advice),
                Some(end) if end <= now + SOON => Finding::doubt("ports", told, advice),
                Some(_) | None => Finding::well("ports", told),
            }
        }
        Err(error) => Finding::fault(
            "ports",
            format_args!("{target} {error}"),
            "it may run with another configuration than this one, or have no certificate for that name:\n\
             systemctl reload parley-relay; what it says: parley-relay status, journalctl -u parley-relay",
        ),
    }
}

/// What systemd says of a unit, a line for each; nothing, where there is no systemd.
async fn show(unit: &str, properties: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["show", unit]);
    for property in properties {
        command.args(["-p", property]);
    }
    let shown = command.output().await.ok()?;
    Some(String::from_utf8_lossy(&shown.stdout).into_owned())
}

/// What is amiss with a socket that systemd keeps, as it shows it, where the config has `port`.
fn kept(shown: &str, unit: &str, port: Option<u16>) -> Option<Finding> {
    // As in `[::]:443 (Stream)`.
    let listens = shown.lines().filter_map(|line| line.strip_prefix("Listen="));
    let mut ports = listens.filter_map(|address| address.split(' ').next()?.rsplit_once(':')?.1.parse().ok());
    // Port 0: whichever it is.
    let is_meant = |kept: &u16| port.is_some_and(|port| port == 0 || port == *kept);
    let other = ports.find(|kept| !is_meant(kept))?;
    if !shown.lines().any(|line| line == "ActiveState=active") {
        return None;
    }
    let says = match port {
        Some(port) => format!("says {port}"),
        None => "has no such port".to_owned(),
    };
    Some(Finding::doubt(
        "ports",
        format_args!("systemd keeps port {other} for the relay, by {unit}, and the config {says}"),
        format!("install.sh modify writes the socket units anew; by hand: systemctl edit --full {unit}"),
    ))
}

/// What systemd says of a relay that does not run; nothing, where it has no unit for one.
async fn unit() -> Option<Finding> {
    let shown = show(UNIT, &["LoadState", "ActiveState", "Result", "NRestarts"]).await?;
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if value("LoadState") != Some("loaded") {
        return None;
    }
    let (state, result) = (value("ActiveState").unwrap_or("inactive"), value("Result").unwrap_or("unknown"));
    let restarts = value("NRestarts").unwrap_or("0");
    Some(Finding::fault(
        "ports",
        format_args!(
            "the relay does not run: its unit is {state}, its last end was {result:?}, it was started again {restarts} times"
        ),
        "why it ended: journalctl -u parley-relay -n 20; to start it: systemctl start parley-relay",
    ))
}

fn is_free(role: Role, host: IpAddr, port: u16) -> Finding {
    let Err(error) = listener::bind(host, port, listener::Port::Alone) else {
        let text = format!("the relay does not run; port {port} is free, and this user may open it");
        return Finding::well("ports", text);
    };
    let error = BindError { wanted: Wanted { role, host, port }, error };
    let told = error.advised_by_config().to_string();
    let (text, advice) = told.split_once('\n').unwrap_or((&told, ""));
    Finding::fault("ports", format_args!("the relay does not run, and {text}"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_systemd_keeps_and_the_config_has_not_is_told() {
        let shown = "Listen=0.0.0.0:443 (Stream)\nListen=[::]:443 (Stream)\nActiveState=active\n";
        let told = |shown: &str, port| kept(shown, "parley-relay.socket", port).map(|finding| finding.text);
        assert_eq!(told(shown, Some(443)), None);
        assert_eq!(told(shown, Some(0)), None);
        let text = "systemd keeps port 443 for the relay, by parley-relay.socket, and the config ";
        assert_eq!(told(shown, Some(8443)), Some(format!("{text}says 8443")));
        assert_eq!(told(shown, None), Some(format!("{text}has no such port")));
        // It is not in use, or not there.
        assert_eq!(told(&shown.replace("=active", "=inactive"), Some(8443)), None);
        assert_eq!(told("ActiveState=inactive\n", Some(8443)), None);
        assert_eq!(told("", Some(8443)), None);
    }
}
