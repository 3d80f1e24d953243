//! A site: everything a request is decided and answered with. A reload builds a whole new one.

mod origins;

use std::{fmt, io, num::NonZeroU32, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use self::origins::{Maker, Origins};
use crate::{
    access::AccessLog,
    admission::rate::RateLimit,
    client::Trust,
    config::{self, BackendUrl, FrontendUrl, ProxyUrl, UriPrefix},
    drain::Drain,
    error_pages::ErrorPages,
    frontend::{OutsidePrefix, StaticFiles},
    least_rate::LeastRate,
    metrics::Metrics,
    proxy::{Bounds, Upstream},
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
    /// How a client takes a response.
    pub(crate) least_rate: LeastRate,
    origins: Origins,
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
    /// How a client sends its body, and takes a response.
    pub(crate) least_rate: LeastRate,
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
    /// Builds a site whose streams end with `drain`; must run inside the runtime, which the pools sweep themselves on. What did not change since `before` goes on from it.
    pub(crate) fn build(plan: Plan, drain: &Drain, before: Option<&Self>) -> Result<Self, SiteError> {
        let Plan { uri_prefix, rules, backend, upstream_proxy, frontend, trust, hsts, access, .. } = plan;
        let timeouts = backend.timeouts;
        let bounds = Bounds {
            upload: plan.max_content_length,
            upload_rate: plan.least_rate,
            download_idle: timeouts.idle,
            retry_for: timeouts.retry,
        };
        let mut origins =
            Maker::new(&backend, upstream_proxy.as_ref(), &plan.metrics, before.map(|site| &site.origins));
        let to_backend = origins.backend()?;
        let frontend = match frontend {
            config::Frontend::Serve { directory, excluded_paths, only_below_prefix } => {
                let outside = if only_below_prefix { OutsidePrefix::NotFound } else { OutsidePrefix::Served };
                Frontend::Files(StaticFiles::open(&directory, excluded_paths, uri_prefix.clone(), outside))
            }
            config::Frontend::Forward(url) if url.origin == backend.url && url.base.is_empty() => {
                Frontend::Backend
            }
            config::Frontend::Forward(url) => {
                let sender = origins.elsewhere(url.origin.clone())?;
                Frontend::Elsewhere(Upstream::new(url, sender, None, bounds))
            }
            config::Frontend::Disabled => Frontend::Disabled,
        };
        let pages = match &frontend {
            Frontend::Files(files) => files.error_pages(),
            Frontend::Backend | Frontend::Elsewhere(_) | Frontend::Disabled => Vec::new(),
        };
        Ok(Self {
            rules,
            backend: Upstream::new(
                FrontendUrl { origin: backend.url.clone(), base: "".into() },
                to_backend,
                origins.streams(drain),
                bounds,
            ),
            frontend,
            pages: ErrorPages::new(uri_prefix.clone(), pages),
            trust,
            rate: plan.requests_per_second.map(RateLimit::new),
            hsts,
            access,
            least_rate: plan.least_rate,
            redactor: match before {
                Some(site) => site.redactor.with_prefix(uri_prefix),
                None => Redactor::new(uri_prefix).map_err(|_| SiteError::Random)?,
            },
            origins: origins.finish(),
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
        site.origins.put_in_force(None);
        Self(Arc::new(ArcSwap::from_pointee(site)))
    }

    /// Serves with `site` from the next request on. What has begun goes on with the one before.
    pub(crate) fn replace(&self, site: Site) {
        let site = Arc::new(site);
        let before = self.0.swap(Arc::clone(&site));
        site.origins.put_in_force(Some(&before.origins));
    }

    /// The site that a request which begins now is served by, to its end.
    pub(crate) fn current(&self) -> Arc<Site> {
        self.0.load_full()
    }
}

pub(crate) fn read_roots(file: &PathBuf) -> Result<RootCertStore, SiteError> {
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
