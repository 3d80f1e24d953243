//! What the relay says of itself when it is asked.

use std::sync::Arc;

use time::OffsetDateTime;

use super::status::{Certificate, Clients, ConfigFile, Configured, Listener, Origin, Requests, Status};
use crate::{
    acme::{self, Stored},
    config::FileRead,
    metrics::{self, Metrics},
    proxy::Upstream,
    site::{Frontend, Sites},
    storage::Storage,
    tls::{Certificates, certificate, local_ca},
};

/// Where what is told can be seen.
pub(crate) struct Reporter {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sites: Sites,
    pub(crate) most_connections: usize,
    pub(crate) most_per_client: usize,
    /// When the configuration was put in force, and what it was read from.
    pub(crate) loaded: OffsetDateTime,
    pub(crate) files: Vec<FileRead>,
    /// `None`: plain HTTP.
    pub(crate) served: Option<Served>,
}

/// The certificates that are served, and who renews them.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) certificates: Arc<Certificates>,
    /// What the relay itself renews is written there; `None`: others renew it.
    pub(crate) storage: Option<Storage>,
}

impl Reporter {
    pub(super) async fn status(&self) -> Status {
        let Metrics { started, connections, requests, backend, frontend, .. } = &*self.metrics;
        let site = self.sites.current();
        let listening = self.metrics.listening();
        let certificates = match self.served.clone() {
            // It reads files. An error: it panicked, and the rest can still be told.
            Some(served) => tokio::task::spawn_blocking(move || served.list()).await.unwrap_or_default(),
            None => Vec::new(),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: Some(*started),
            uptime_seconds: self.metrics.uptime().as_secs(),
            config: Configured {
                loaded: Some(self.loaded),
                files: self
                    .files
                    .iter()
                    .map(|FileRead { path, sha256 }| ConfigFile {
                        path: path.to_string_lossy().into_owned(),
                        sha256: sha256.clone(),
                    })
                    .collect(),
            },
            listeners: listening
                .into_iter()
                .map(|socket| Listener { kind: socket.kind.to_owned(), address: socket.address.to_string() })
                .collect(),
            certificates,
            clients: Clients {
                most: self.most_connections,
                most_per_client: self.most_per_client,
                handshake: connections.handshake.value(),
                http1: connections.http1.value(),
                http2: connections.http2.value(),
                redirect: connections.redirect.value(),
                tunnel: backend.tunnels.value() + frontend.tunnels.value(),
                accepted: connections.accepted.value(),
                refused: connections.refused.value(),
                exhausted: connections.exhausted.value(),
            },
            requests: Requests {
                answered: requests.answered(),
                aborted: requests.aborted(),
                limited: requests.limited.value(),
            },
            backend: origin(&site.backend, backend),
            frontend: match &site.frontend {
                Frontend::Elsewhere(upstream) => Some(origin(upstream, frontend)),
                Frontend::Files(_) | Frontend::Backend | Frontend::Disabled => None,
            },
        }
    }
}

fn origin(upstream: &Upstream, metrics: &metrics::Origin) -> Origin {
    let (connections_busy, connections_idle, waiting) = upstream.connections();
    let (connections_most, streams_most) = metrics.bounds();
    Origin {
        url: upstream.origin(),
        away_seconds: upstream.away().map(|away| away.as_secs()),
        connections_busy,
        connections_idle,
        connections_most,
        waiting,
        streams_live: metrics.live.value(),
        streams_held: metrics.held.value(),
        streams_most,
        streams_given_up: metrics.given_up.value(),
        retries: metrics.retries.value(),
    }
}

impl Served {
    /// Reads what the ledger says of each.
    fn list(&self) -> Vec<Certificate> {
        let stored = match &self.storage {
            // An error is told by whoever keeps the certificates.
            Some(storage) => acme::stored(storage).unwrap_or_default(),
            None => Vec::new(),
        };
        let served = self.certificates.all();
        served.iter().map(|certificate| self.describe(certificate, &stored)).collect()
    }

    fn describe(&self, certificate: &certificate::Certificate, stored: &[Stored]) -> Certificate {
        let is_same = |stored: &&Stored| {
            stored.certificate.as_ref().is_some_and(|own| own.fingerprint == certificate.fingerprint)
        };
        // A temporary one stands for one that never came.
        let is_awaited = |stored: &&Stored| {
            stored.certificate.is_none() && certificate.is_temporary() && certificate.is_for(&stored.subject)
        };
        let entry = stored.iter().find(is_same).or_else(|| stored.iter().find(is_awaited));
        let own_renewal = || -> Option<OffsetDateTime> {
            let by_us = self.storage.is_some() && entry.is_none() && !certificate.is_temporary();
            by_us.then(|| local_ca::renewal(certificate))
        };
        Certificate {
            names: certificate.all_names().collect(),
            issuer: certificate.issuer.clone(),
            fingerprint: certificate.fingerprint.clone(),
            temporary: certificate.is_temporary(),
            expires: Some(certificate.not_after),
            next_renewal: entry.and_then(|stored| stored.entry.renew_at).or_else(own_renewal),
            last_error: entry.and_then(|stored| stored.entry.last_error.clone()),
            next_try: entry.and_then(|stored| stored.entry.next_try),
        }
    }
}
