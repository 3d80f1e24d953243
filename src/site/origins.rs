//! Origins over reloads: one that did not change goes on with its connections, and none counts twice.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::RootCertStore;
use tokio_util::sync::CancellationToken;

use super::SiteError;
use crate::{
    budget::Budget,
    config::{self, BackendUrl, ClientAddress, ProxyUrl, Timeouts},
    metrics::{self, Metrics},
    proxy::{
        egress::{self, Egress},
        event_stream::{Bound, Streams},
        health::{Health, Role},
        identity::Identity,
        pool::Pool,
        send::Sender,
    },
};

/// Every origin of a site. The first is the backend.
pub(super) struct Origins {
    /// Each client's source address stays what it is: the backend's limits count on it.
    identity: Arc<Identity>,
    /// Streams that the backend feeds.
    slots: Budget,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    origins: Vec<Origin>,
}

/// How many there may be of what outlives a site.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    streams: usize,
    /// Whether streams are more to us than other requests.
    holds: bool,
}

struct Origin {
    way: Way,
    sender: Arc<Sender>,
}

/// How an origin is reached: what must be the same for its connections to go on.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Way {
    url: BackendUrl,
    proxy: Option<ProxyUrl>,
    ca_file: Option<PathBuf>,
    client_address: ClientAddress,
    timeouts: Timeouts,
}

/// What origins are made with.
pub(super) struct Maker<'a> {
    backend: &'a config::Backend,
    proxy: Option<&'a ProxyUrl>,
    before: Option<&'a Origins>,
    web: Arc<RootCertStore>,
    made: Origins,
}

impl<'a> Maker<'a> {
    /// `before`: the origins of the site that is to be replaced.
    pub(super) fn new(
        backend: &'a config::Backend,
        proxy: Option<&'a ProxyUrl>,
        metrics: &Arc<Metrics>,
        before: Option<&'a Origins>,
    ) -> Self {
        let identity =
            before.map_or_else(|| Arc::new(Identity::new()), |before| Arc::clone(&before.identity));
        let same = before.filter(|before| before.origins.first().is_some_and(|o| o.way.url == backend.url));
        let slots = same.map_or_else(|| Budget::new(stream_budget(backend)), |before| before.slots.clone());
        let bounds = Bounds {
            connections: backend.max_connections,
            streams: stream_budget(backend),
            holds: !backend.timeouts.hold.is_zero(),
        };
        let metrics = Arc::clone(metrics);
        let made = Origins { identity, slots, bounds, metrics, origins: Vec::new() };
        Self { backend, proxy, before, web: Arc::new(egress::web_roots()), made }
    }

    /// The backend.
    pub(super) fn backend(&mut self) -> Result<Arc<Sender>, SiteError> {
        let metrics = Arc::clone(&self.made.metrics.backend);
        self.origin(
            Role::Backend,
            &metrics,
            Way {
                url: self.backend.url.clone(),
                proxy: self.proxy.cloned(),
                ca_file: self.backend.ca_file.clone(),
                client_address: self.backend.client_address,
                timeouts: self.backend.timeouts,
            },
        )
    }

    /// A front end elsewhere. The backend's connections are counted together, whatever they are for.
    pub(super) fn elsewhere(&mut self, url: BackendUrl) -> Result<Arc<Sender>, SiteError> {
        if let Some(origin) = self.made.origins.iter().find(|origin| origin.way.url == url) {
            return Ok(Arc::clone(&origin.sender));
        }
        let metrics = Arc::clone(&self.made.metrics.frontend);
        self.origin(
            Role::Frontend,
            &metrics,
            Way {
                url,
                proxy: self.proxy.cloned(),
                ca_file: None,
                client_address: ClientAddress::Header,
                timeouts: self.backend.timeouts,
            },
        )
    }

    /// How the backend's event streams are kept; `None`: they are requests like others.
    pub(super) fn streams(&self, drain: &crate::drain::Drain) -> Option<Streams> {
        let hold_for: Duration = self.backend.timeouts.hold;
        (!hold_for.is_zero()).then(|| Streams {
            slots: self.made.slots.clone(),
            hold_for,
            drain: drain.clone(),
            bounded_by: if self.backend.max_streams.is_some() { Bound::Origin } else { Bound::Connections },
        })
    }

    pub(super) fn finish(self) -> Origins {
        self.made
    }

    fn origin(
        &mut self,
        role: Role,
        metrics: &Arc<metrics::Origin>,
        way: Way,
    ) -> Result<Arc<Sender>, SiteError> {
        let before = self.before.iter().flat_map(|before| &before.origins);
        let before = before.into_iter().find(|origin| origin.way.url == way.url);
        let sender = match before {
            // What is in the CA file may have changed.
            Some(origin) if origin.way == way && way.ca_file.is_none() => Arc::clone(&origin.sender),
            Some(Origin { sender, .. }) => {
                let sockets = sender.pool.sockets().clone();
                self.make(&way, sockets, Arc::clone(&sender.health))?
            }
            None => {
                let health = Arc::new(Health::new(role, way.url.to_string(), Arc::clone(metrics)));
                self.make(&way, Budget::new(self.backend.max_connections), health)?
            }
        };
        self.made.origins.push(Origin { way, sender: Arc::clone(&sender) });
        Ok(sender)
    }

    fn make(&self, way: &Way, sockets: Budget, health: Arc<Health>) -> Result<Arc<Sender>, SiteError> {
        let roots = match &way.ca_file {
            Some(file) => Arc::new(super::read_roots(file)?),
            None => Arc::clone(&self.web),
        };
        let egress = Egress::new(&way.url, way.proxy.clone(), &roots, way.timeouts.connect)
            .map_err(|_| SiteError::OriginName(way.url.clone()))?;
        let identity = match way.client_address {
            ClientAddress::Loopback => Some(Arc::clone(&self.made.identity)),
            ClientAddress::Header => None,
        };
        Ok(Arc::new(Sender {
            pool: Pool::new(egress, sockets, way.timeouts.idle, way.timeouts.queue),
            identity,
            response_within: way.timeouts.response,
            health,
            replaced: CancellationToken::new(),
        }))
    }
}

impl Origins {
    /// Puts the bounds in force, and lets streams go that wait for an origin of `before` which is one no longer:
    /// they come back to these.
    pub(super) fn put_in_force(&self, before: Option<&Self>) {
        let Bounds { connections, streams, holds } = self.bounds;
        self.metrics.backend.bound(connections, if holds { streams } else { 0 });
        self.metrics.frontend.bound(connections, 0);
        for origin in &self.origins {
            origin.sender.pool.sockets().resize(connections);
        }
        self.slots.resize(streams);
        for old in before.iter().flat_map(|before| &before.origins) {
            if !self.origins.iter().any(|new| Arc::ptr_eq(&new.sender, &old.sender)) {
                old.sender.replaced.cancel();
            }
        }
    }
}

/// How many streams the backend feeds at once: an eighth of the connections, and at least one, is always kept
/// for ordinary requests.
fn stream_budget(backend: &config::Backend) -> usize {
    let all = backend.max_connections;
    let most = all.saturating_sub((all / 8).max(1)).max(1);
    backend.max_streams.map_or(most, |streams| streams.min(most))
}
