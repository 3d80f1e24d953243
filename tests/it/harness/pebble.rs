//! A real ACME server: Pebble, with a DNS server of its own, behind a front that can misbehave.
//!
//! Each Pebble has a loopback address to itself. So its ports can be fixed, no other test is in its way, and the
//! address is a name that it can be asked to certify.

mod builder;
mod clock;
mod dns;
mod front;
mod script;
mod served;
mod small_disk;
mod stored;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use builder::PebbleBuilder;
pub(crate) use clock::Clock;
pub(crate) use dns::Dns;
pub(crate) use front::{Fault, Front, Step};
pub(crate) use script::write_script;
pub(crate) use served::{Served, credulous_client};
pub(crate) use small_disk::SmallDisk;
pub(crate) use stored::{Stored, make_due, meta};

use super::{Pki, Raw, Relay, process::Process, raw, relay::RelayBuilder};

/// Where the relay listens, and where Pebble looks for the answers to its challenges.
const HTTPS: u16 = 5001;
const HTTP: u16 = 5002;
/// Where the relay's own DNS responder listens, when it has one.
const RESPONDER: u16 = 5053;
const ACME: u16 = 14000;
const MANAGEMENT: u16 = 15000;
/// What Pebble and its DNS server speak through; the relay has no need of it.
const DNS: u16 = 8053;

/// A running Pebble. Dropping it ends it and all that belongs to it.
pub(crate) struct Pebble {
    address: IpAddr,
    pki: Pki,
    pub(crate) front: Front,
    pub(crate) dns: Dns,
    /// Trusts Pebble's own TLS certificate.
    tls: Arc<ClientConfig>,
    process: Process,
    _dir: TempDir,
}

impl Pebble {
    /// Debian stable's, which knows neither ARI nor profiles.
    pub(crate) fn builder() -> PebbleBuilder {
        PebbleBuilder::new("pebble".into(), "pebble-challtestsrv".into())
    }

    /// One with ARI and profiles; `None`, and a line that says so, where `tests/run` could not get it.
    pub(crate) fn newer() -> Option<PebbleBuilder> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pebble/usr/bin");
        if programs.join("pebble").exists() {
            return Some(PebbleBuilder::new(programs.join("pebble"), programs.join("pebble-challtestsrv")));
        }
        eprintln!("skipped: no Pebble with ARI and profiles in {}", programs.display());
        None
    }

    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// The address that every name leads to.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The directory, by way of the front.
    pub(crate) fn directory(&self) -> String {
        self.front.directory()
    }

    /// The directory of Pebble itself, at an address and not at a name.
    pub(crate) fn direct_directory(&self) -> String {
        format!("https://{}/dir", SocketAddr::new(self.address, ACME))
    }

    /// Where the relay's DNS responder has to listen for [`PebbleBuilder::asks_the_responder`].
    pub(crate) fn responder(&self) -> SocketAddr {
        SocketAddr::new(self.address, RESPONDER)
    }

    /// The root that vouches for the TLS certificates of Pebble and of the front, in PEM.
    pub(crate) fn ca_root(&self) -> String {
        self.pki.root()
    }

    /// A relay whose certificates for `names` come from here.
    pub(crate) fn relay(&self, names: &[&str]) -> RelayBuilder {
        self.configure(Relay::builder(), names)
    }

    /// The next one, with all that `old` stored. `old` is killed.
    pub(crate) fn relay_after(&self, old: Relay, names: &[&str]) -> RelayBuilder {
        self.configure(Relay::builder().in_the_place_of(&old), names)
    }

    fn configure(&self, relay: RelayBuilder, names: &[&str]) -> RelayBuilder {
        relay.file("ca-root.pem", self.ca_root()).toml(&format!(
            "
                [server]
                host = \"{}\"
                port = {HTTPS}
                http_port = {HTTP}
                [tls]
                mode = \"acme\"
                domains = {names:?}
                storage = \"{{dir}}/storage\"
                [tls.acme]
                directory = \"{}\"
                ca_root = \"{{dir}}/ca-root.pem\"",
            self.address,
            self.directory()
        ))
    }

    /// Waits until the relay serves a certificate of this Pebble's for `name`.
    pub(crate) async fn issued(&self, relay: &Relay, name: &str) -> Served {
        self.issued_where(relay, name, |_| true).await
    }

    /// Waits until it serves another one than `old`.
    pub(crate) async fn renewed(&self, relay: &Relay, name: &str, old: &Served) -> Served {
        self.issued_where(relay, name, |served| served.serial() != old.serial()).await
    }

    async fn issued_where(&self, relay: &Relay, name: &str, wanted: impl Fn(&Served) -> bool) -> Served {
        let search = async {
            loop {
                match Served::at(relay.https(), name).await {
                    Ok(served) if served.is_pebbles() && wanted(&served) => return served,
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        match tokio::time::timeout(super::DEADLINE, search).await {
            Ok(served) => served,
            Err(_) => panic!(
                "no certificate for {name} in time\nthe relay:\n{}\nPebble:\n{}",
                relay.logs().join("\n"),
                self.process.lines().join("\n")
            ),
        }
    }

    /// The root that its certificates lead to, in PEM. Another one each time that Pebble starts.
    pub(crate) async fn issuing_root(&self) -> String {
        self.management("GET", "/roots/0", &Value::Null).await
    }

    /// Sets what it answers when it is asked when to renew `served`.
    pub(crate) async fn set_renewal_window(&self, served: &Served, start: &str, end: &str) {
        let window = json!({ "suggestedWindow": { "start": start, "end": end } });
        let request = json!({ "Certificate": served.leaf_pem(), "ARIResponse": window.to_string() });
        self.management("POST", "/set-renewal-info/", &request).await;
    }

    async fn management(&self, method: &str, path: &str, body: &Value) -> String {
        let address = SocketAddr::new(self.address, MANAGEMENT);
        let stream = raw::handshake(address, Arc::clone(&self.tls), &self.address.to_string()).await.unwrap();
        let mut raw = Raw::over(stream);
        let body = body.to_string();
        raw.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let response = raw.read_response().await;
        let (status, answer) = (response.status(), String::from_utf8(response.body).unwrap());
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }
}
