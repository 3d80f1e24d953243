//! A site: everything a request is decided and answered with. A reload builds a whole new one.

use std::{fmt, io, num::NonZeroU32, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::AccessLog,
    admission::rate::RateLimit,
    client::Trust,
    config::{self, BackendUrl, ClientAddress, FrontendUrl, ProxyUrl, UriPrefix},
    error_pages::ErrorPages,
    frontend::{OutsidePrefix, StaticFiles},
    metrics::{Metrics, Origin},
    proxy::{
        Bounds, Upstream,
        egress::{self, Egress},
        event_stream::{Bound, Streams},
        health::Health,
        identity::Identity,
        pool::Pool,
        send::Sender,
    },
    redact::Redactor,
    rules::Rules,
};

/// What one configuration makes of requests.
pub(crate) struct Site {
    pub(crate) rules: Rules,
    pub(crate) backend: Upstream,
    pub(crate) frontend: Frontend,
    pub(crate) pages: ErrorPages,
    pub(crate) trust: Trust,
    /// How often a client may ask; `None`: as it likes.
    pub(crate) rate: Option<RateLimit>,
    /// `Strict-Transport-Security`, sent over TLS alone.
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) access: AccessLog,
    pub(crate) redactor: Redactor,
}

/// Where a request goes that no rule matches.
pub(crate) enum Frontend {
    Files(StaticFiles),
    /// The backend hosts it: the same connections serve both.
    Backend,
    Elsewhere(Upstream),
    Disabled,
}

/// The parts of a configuration that a site is made of.
pub(crate) struct Plan {
    pub(crate) uri_prefix: UriPrefix,
    pub(crate) rules: Rules,
    pub(crate) backend: config::Backend,
    pub(crate) upstream_proxy: Option<ProxyUrl>,
    pub(crate) frontend: config::Frontend,
    pub(crate) trust: Trust,
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) access: AccessLog,
    /// The largest request body, in bytes.
    pub(crate) max_content_length: u64,
    /// The longest pause in a client's body.
    pub(crate) idle_body: std::time::Duration,
    pub(crate) requests_per_second: Option<NonZeroU32>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a site cannot be built.
#[derive(Debug)]
pub(crate) enum SiteError {
    /// `[backend] ca_file` cannot be read, or holds no certificate.
    CaFile(PathBuf, rustls::pki_types::pem::Error),
    /// A certificate in it is none.
    CaCertificate(PathBuf, rustls::Error),
    /// An `https://` origin whose host no certificate can name.
    OriginName(BackendUrl),
    /// The system has no randomness.
    Random,
}

impl Site {
    /// Builds a site whose tunnels are tracked and whose streams end with `drain`; must run inside the runtime,
    /// which the pools sweep themselves on.
    pub(crate) fn build(
        plan: Plan,
        tunnels: &TaskTracker,
        drain: &CancellationToken,
    ) -> Result<Self, SiteError> {
        let Plan { uri_prefix, rules, backend, upstream_proxy, frontend, trust, hsts, access, .. } = plan;
        let web = Arc::new(egress::web_roots());
        let roots = match &backend.ca_file {
            Some(file) => Arc::new(read_roots(file)?),
            None => Arc::clone(&web),
        };
        let timeouts = backend.timeouts;
        let sender = |url: &BackendUrl, roots: &Arc<RootCertStore>, identity, metrics: &Arc<Origin>| {
            let egress = Egress::new(url, upstream_proxy.clone(), roots, timeouts.connect)
                .map_err(|_| SiteError::OriginName(url.clone()))?;
            Ok(Arc::new(Sender {
                pool: Pool::new(egress, backend.max_connections, timeouts.idle, timeouts.queue),
                identity,
                response_within: timeouts.response,
                health: Arc::new(Health::new(url.to_string(), Arc::clone(metrics))),
            }))
        };
        let bounds = Bounds {
            upload: plan.max_content_length,
            upload_idle: plan.idle_body,
            download_idle: timeouts.idle,
            retry_for: timeouts.retry,
        };
        let identity = match backend.client_address {
            ClientAddress::Loopback => Some(Identity::new()),
            ClientAddress::Header => None,
        };
        let streams = (!timeouts.hold.is_zero()).then(|| Streams {
            slots: Arc::new(Semaphore::new(stream_budget(&backend))),
            hold_for: timeouts.hold,
            drain: drain.clone(),
            bounded_by: if backend.max_streams.is_some() { Bound::Origin } else { Bound::Connections },
        });
        let to_backend = sender(&backend.url, &roots, identity, &plan.metrics.backend)?;
        let elsewhere = |url: FrontendUrl| {
            // The backend's connections are counted together, whatever they are for.
            let sender = if url.origin == backend.url {
                Arc::clone(&to_backend)
            } else {
                sender(&url.origin, &web, None, &plan.metrics.frontend)?
            };
            Ok(Upstream::new(url, sender, None, bounds, tunnels.clone()))
        };
        let frontend = match frontend {
            config::Frontend::Serve { directory, excluded_paths, only_below_prefix } => {
                let outside = if only_below_prefix { OutsidePrefix::NotFound } else { OutsidePrefix::Served };
                Frontend::Files(StaticFiles::open(&directory, excluded_paths, uri_prefix.clone(), outside))
            }
            config::Frontend::Forward(url) if url.origin == backend.url && url.base.is_empty() => {
                Frontend::Backend
            }
            config::Frontend::Forward(url) => Frontend::Elsewhere(elsewhere(url)?),
            config::Frontend::Disabled => Frontend::Disabled,
        };
        let pages = match &frontend {
            Frontend::Files(files) => files.error_pages(),
            Frontend::Backend | Frontend::Elsewhere(_) | Frontend::Disabled => Vec::new(),
        };
        let streams_most = if timeouts.hold.is_zero() { 0 } else { stream_budget(&backend) };
        plan.metrics.backend.bound(backend.max_connections, streams_most);
        plan.metrics.frontend.bound(backend.max_connections, 0);
        Ok(Self {
            rules,
            backend: Upstream::new(
                FrontendUrl { origin: backend.url.clone(), base: "".into() },
                to_backend,
                streams,
                bounds,
                tunnels.clone(),
            ),
            frontend,
            pages: ErrorPages::new(uri_prefix.clone(), pages),
            trust,
            rate: plan.requests_per_second.map(RateLimit::new),
            hsts,
            access,
            redactor: Redactor::new(uri_prefix).map_err(|_| SiteError::Random)?,
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files(_) => "served from its directory",
            Self::Backend => "the backend's",
            Self::Elsewhere(_) => "forwarded",
            Self::Disabled => "none",
        })
    }
}

/// The site that serves now; all listeners look here.
#[derive(Clone)]
pub(crate) struct Sites(Arc<ArcSwap<Site>>);

impl Sites {
    pub(crate) fn new(site: Site) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(site)))
    }

    /// The site that a request which begins now is served by, to its end.
    pub(crate) fn current(&self) -> Arc<Site> {
        self.0.load_full()
    }
}

/// How many streams the backend feeds at once: an eighth of the connections, and at least one, is always kept
/// for ordinary requests.
fn stream_budget(backend: &config::Backend) -> usize {
    let all = backend.max_connections;
    let most = all.saturating_sub((all / 8).max(1)).max(1);
    backend.max_streams.map_or(most, |streams| streams.min(most))
}

fn read_roots(file: &PathBuf) -> Result<RootCertStore, SiteError> {
    let unreadable = |error| SiteError::CaFile(file.clone(), error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|error| SiteError::CaCertificate(file.clone(), error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(roots)
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile(file, rustls::pki_types::pem::Error::Io(error)) => {
                write!(f, "[backend] ca_file: {} cannot be read: {error}", file.display())
            }
            Self::CaFile(file, error) => {
                write!(f, "[backend] ca_file: {} is no PEM file of certificates: {error:?}", file.display())
            }
            Self::CaCertificate(file, error) => {
                write!(f, "[backend] ca_file: a certificate in {} is none: {error}", file.display())
            }
            Self::OriginName(url) => {
                write!(f, "no certificate can name the host of {}://{}", url.scheme, url.authority)
            }
            Self::Random => io::Error::other("the system gives no random bytes").fmt(f),
        }
    }
}

impl std::error::Error for SiteError {}
