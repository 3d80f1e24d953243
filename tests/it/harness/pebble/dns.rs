//! Pebble's DNS server: every name leads to one address, and hooks put TXT records into it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{DNS, Process, builder::listening, script::write_script};

const MANAGEMENT: u16 = 8055;

/// A running challtestsrv. Dropping it ends it.
pub(crate) struct Dns {
    dir: TempDir,
    _process: Process,
}

impl Dns {
    pub(super) async fn start(program: &Path, address: IpAddr) -> Self {
        // The other port is the one that a machine's resolvers have, and only root can listen there.
        let ports = if rustix::process::geteuid().is_root() { &[DNS, 53][..] } else { &[DNS][..] };
        let servers: Vec<_> = ports.iter().map(|port| SocketAddr::new(address, *port).to_string()).collect();
        let management = SocketAddr::new(address, MANAGEMENT);
        // The flag's name changed, and only the newer program has DNS over HTTPS to be turned off.
        let flags: &[&str] = if program.is_absolute() { &["-doh", "", "-dnsserver"] } else { &["-dns01"] };
        let mut command = Command::new(program);
        command
            .args(["-http01", "", "-tlsalpn01", "", "-https01", "", "-defaultIPv6", ""])
            .args(["-defaultIPv4", &address.to_string()])
            .args(["-management", &management.to_string()])
            .args(flags)
            .arg(servers.join(","));
        let process = Process::spawn(command);
        listening(management, &process).await;
        let dir = TempDir::new().unwrap();
        let path = dir.path().display();
        let hook = format!(
            r#"#!/bin/sh
set -eu
printf '%s %s %s %s %s\n' "$1" "$2" "$3" "$CERTBOT_DOMAIN" "$CERTBOT_VALIDATION" >>'{path}/calls'
case $2 in *refused*) echo 'the provider says no' >&2; exit 3 ;; esac
case $1 in
  present) curl -fsS -d "{{\"host\":\"$2.\",\"value\":\"$3\"}}" 'http://{management}/set-txt' ;;
  cleanup) curl -fsS -d "{{\"host\":\"$2.\"}}" 'http://{management}/clear-txt' ;;
esac
"#
        );
        write_script(&dir.path().join("hook"), &hook);
        fs::write(dir.path().join("resolv.conf"), format!("nameserver {address}\n")).unwrap();
        let relay = format!(
            r#"#!/bin/sh
exec unshare --mount sh -c 'mount --bind {path}/resolv.conf /etc/resolv.conf && exec "$0" "$@"' {} "$@"
"#,
            env!("CARGO_BIN_EXE_parley-relay")
        );
        write_script(&dir.path().join("relay"), &relay);
        Self { dir, _process: process }
    }

    /// A hook for the relay that keeps its records here.
    pub(crate) fn hook(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    /// Puts a TXT record there, as a person would.
    pub(crate) fn set_txt(&self, name: &str, value: &str) {
        let mut hook = Command::new(self.hook());
        hook.args(["present", name, value]).env("CERTBOT_DOMAIN", "").env("CERTBOT_VALIDATION", "");
        assert!(hook.status().unwrap().success(), "{name} {value}");
    }

    /// The lines that the hook has written: action, name, value, and the last two as certbot names them.
    pub(crate) fn hook_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The relay on a machine whose resolver is this server; `None`, and a line that says so, where we may not
    /// make such a machine.
    pub(crate) fn relay(&self) -> Option<PathBuf> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a resolver of its own can be given to the relay by root alone");
            return None;
        }
        Some(self.dir.path().join("relay"))
    }
}
