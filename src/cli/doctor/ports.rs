//! Ports: whether the relay answers there, or could.

use std::{net::IpAddr, path::PathBuf};

use http::uri::Scheme;
use time::OffsetDateTime;

use super::Finding;
use crate::{
    cli::health::{self, Target},
    listener,
    ports::{BindError, Role, Wanted},
    run_file,
};

/// `target` is the main port of the relay whose control socket lies in one of the `directories`, if it runs; then its address
/// and its redirect port.
pub(super) async fn look(
    directories: &[PathBuf],
    target: Target,
    (host, redirect): (IpAddr, Option<u16>),
) -> Vec<Finding> {
    let redirect =
        redirect.map(|port| (Role::Redirect, Target { scheme: Scheme::HTTP, port, ..target.clone() }));
    let mut findings = Vec::new();
    // What cannot be read is that of a relay whose user we are not.
    let runs = directories.iter().any(|directory| !matches!(run_file::read(directory), Ok(None)));
    for (role, target) in [(Role::Main, target)].into_iter().chain(redirect) {
        findings.push(if runs { answers(&target).await } else { is_free(role, host, target.port) });
    }
    findings
}

async fn answers(target: &Target) -> Finding {
    match health::ask(target).await {
        Ok(healthy) => Finding::well("ports", healthy.describe(OffsetDateTime::now_utc())),
        Err(error) => Finding::fault(
            "ports",
            format_args!("{target} {error}"),
            "it may run with another configuration than this one, or have no certificate for that name:\n\
             systemctl reload parley-relay; what it says: parley-relay status, journalctl -u parley-relay",
        ),
    }
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
