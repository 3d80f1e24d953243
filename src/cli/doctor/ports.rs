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
    let redirect =
        redirect.map(|port| (Role::Redirect, Target { scheme: Scheme::HTTP, port, ..target.clone() }));
    let mut findings = Vec::new();
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

/// What systemd says of a relay that does not run; nothing, where it has no unit for one.
async fn unit() -> Option<Finding> {
    let properties =
        ["show", UNIT, "-p", "LoadState", "-p", "ActiveState", "-p", "Result", "-p", "NRestarts"];
    let shown = tokio::process::Command::new("systemctl").args(properties).output().await.ok()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
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
