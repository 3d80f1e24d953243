//! How a Pebble is to behave, and its start.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{ACME, DNS, Dns, Front, HTTP, HTTPS, MANAGEMENT, Pebble, RESPONDER};
use crate::harness::{Pki, pki, process::Process, within};

/// How a Pebble is to behave.
pub(crate) struct PebbleBuilder {
    program: PathBuf,
    challtestsrv: PathBuf,
    config: Value,
    /// In per cent.
    rejected_nonces: u8,
    reused_authorizations: u8,
    dns_server: DnsServer,
}

enum DnsServer {
    Challtestsrv,
    Responder,
}

impl PebbleBuilder {
    pub(super) fn new(program: PathBuf, challtestsrv: PathBuf) -> Self {
        Self {
            program,
            challtestsrv,
            config: json!({
                "httpPort": HTTP,
                "tlsPort": HTTPS,
                "ocspResponderURL": "",
                "externalAccountBindingRequired": false,
                // Zero: nothing is slowed down for the sake of realism.
                "retryAfter": { "authz": 0, "order": 0 },
                "keyAlgorithm": "ecdsa",
                "profiles": { "default": { "description": "90 days", "validityPeriod": 90 * 86_400 } },
                "certificateValidityPeriod": 90 * 86_400,
            }),
            rejected_nonces: 0,
            reused_authorizations: 0,
            dns_server: DnsServer::Challtestsrv,
        }
    }

    /// Has the profile `shortlived` as well; Pebble takes any of them for an order that names none.
    pub(crate) fn offers_short_lived(mut self) -> Self {
        let profile = json!({ "description": "6 days", "validityPeriod": 6 * 86_400 });
        self.config["profiles"]["shortlived"] = profile;
        self
    }

    /// How many good nonces of a hundred it calls bad.
    pub(crate) fn rejects_nonces(mut self, percent: u8) -> Self {
        self.rejected_nonces = percent;
        self
    }

    /// How many authorisations of a hundred it takes over from earlier orders.
    pub(crate) fn reuses_authorizations(mut self, percent: u8) -> Self {
        self.reused_authorizations = percent;
        self
    }

    /// Accounts must be bound to the external account `id` with `key`, base64url.
    pub(crate) fn external_account(mut self, id: &str, key: &str) -> Self {
        self.config["externalAccountBindingRequired"] = true.into();
        self.config["externalAccountMACKeys"] = json!({ id: key });
        self
    }

    /// Looks for the answers to HTTP-01 on another port than the relay's.
    pub(crate) fn looks_for_http_on(mut self, port: u16) -> Self {
        self.config["httpPort"] = port.into();
        self
    }

    /// Looks for the answers to TLS-ALPN-01 on another port than the relay's.
    pub(crate) fn looks_for_tls_on(mut self, port: u16) -> Self {
        self.config["tlsPort"] = port.into();
        self
    }

    /// What it calls itself in CAA and in standing TXT records.
    pub(crate) fn calls_itself(mut self, names: &[&str]) -> Self {
        self.config["caaIdentities"] = json!(names);
        self
    }

    /// Asks [`Pebble::responder`] alone about every name, as if all of them were delegated to it.
    pub(crate) fn asks_the_responder(mut self) -> Self {
        self.dns_server = DnsServer::Responder;
        self
    }

    pub(crate) async fn start(self) -> Pebble {
        let address = own_address();
        let pki = Pki::new();
        let dir = TempDir::new().unwrap();
        let leaf = pki.leaf(&[&address.to_string()]);
        fs::write(dir.path().join("cert.pem"), leaf.cert).unwrap();
        fs::write(dir.path().join("key.pem"), leaf.key).unwrap();
        let mut config = self.config;
        config["listenAddress"] = SocketAddr::new(address, ACME).to_string().into();
        config["managementListenAddress"] = SocketAddr::new(address, MANAGEMENT).to_string().into();
        config["certificate"] = "cert.pem".into();
        config["privateKey"] = "key.pem".into();
        fs::write(dir.path().join("pebble.json"), json!({ "pebble": config }).to_string()).unwrap();

        let dns = Dns::start(&self.challtestsrv, address).await;
        let dns_server = match self.dns_server {
            DnsServer::Challtestsrv => SocketAddr::new(address, DNS),
            DnsServer::Responder => SocketAddr::new(address, RESPONDER),
        };
        let mut command = Command::new(&self.program);
        command
            .current_dir(dir.path())
            .args(["-config", "pebble.json", "-dnsserver", &dns_server.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", self.rejected_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", self.reused_authorizations.to_string());
        let process = Process::spawn(command);
        for port in [ACME, MANAGEMENT] {
            listening(SocketAddr::new(address, port), &process).await;
        }
        let tls = pki::client_config(pki.root().as_bytes(), &[]);
        let front = Front::start(&pki, SocketAddr::new(address, ACME), Arc::clone(&tls)).await;
        Pebble { address, pki, front, dns, tls, process, _dir: dir }
    }
}

/// A loopback address that no other test has, in this process or in another one that runs now.
fn own_address() -> IpAddr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let [.., high, low] = std::process::id().to_be_bytes();
    // Below 127.64.0.0, where the relay's own source addresses begin, and above 127.0.0.0/16 with all the rest.
    IpAddr::V4(Ipv4Addr::new(127, high % 63 + 1, low, number))
}

/// Waits until `process` listens there.
pub(super) async fn listening(address: SocketAddr, process: &Process) {
    within(&format!("a listener on {address}: {:?}", process.lines()), async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
