//! Binds, runs and drains: the one owner of every long-lived task.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::Instant};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    access::AccessLog,
    admission::Clients,
    client::Trust,
    config::{CertificateSource, Config, Log, LogFormat},
    connection::{self, ProxyProtocol, Purpose, Service},
    control::{self, Reporter, Served},
    listener,
    metrics::Metrics,
    redirect::Names,
    signal,
    site::{Frontend, Plan, Site, SiteError, Sites},
    storage::Storage,
    tls::{self, Keeper, TlsError},
};

/// A relay that is bound and about to run.
pub(crate) struct Relay {
    listeners: Vec<(TcpListener, Service)>,
    sites: Sites,
    /// Where people find it: the first name's URL, or the address over plain HTTP.
    url: String,
    keeper: Option<Keeper>,
    /// One for each connection that may be open.
    permits: Arc<Semaphore>,
    /// Connections, and the tunnels that outlive their request.
    connections: TaskTracker,
    metrics: Arc<Metrics>,
    /// Where the control socket lies, and what is told there.
    control: (PathBuf, Reporter),
    /// Cancelled when the relay is to end.
    drain: CancellationToken,
    /// How long open requests may take once the drain has begun.
    drain_for: Duration,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// It was asked to, and every request was answered or had its time.
    Drained,
    /// A long-lived task ended: a listening socket broke, or a task panicked.
    Broken,
}

/// Why a relay cannot start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The flag is the one that chooses this port.
    Bind {
        host: IpAddr,
        port: u16,
        flag: &'static str,
        error: io::Error,
    },
    Tls(TlsError),
    Site(SiteError),
    /// The system lets no signal be received.
    Signals(io::Error),
}

impl Relay {
    /// Takes a configuration apart, opens certificates and binds every port: all that can fail at a start.
    pub(crate) fn bind(config: Config) -> Result<Self, StartError> {
        let Config {
            uri_prefix,
            server,
            tls,
            backend,
            upstream_proxy,
            frontend,
            limits,
            log,
            rules,
            control,
        } = config;
        let (connections, drain) = (TaskTracker::new(), CancellationToken::new());
        let (metrics, clients) = (Arc::new(Metrics::new()), Clients::default());
        let source = backend.timeouts.idle;
        let plan = Plan {
            uri_prefix,
            rules,
            backend,
            upstream_proxy,
            frontend,
            trust: Trust::new(server.trusted_proxies, server.client_ip_header),
            hsts: tls.as_ref().and_then(|tls| tls.hsts).map(hsts),
            access: access_log(&log),
            max_content_length: server.max_content_length.0,
            idle_body: limits.idle_body,
            requests_per_second: limits.requests_per_second,
            metrics: Arc::clone(&metrics),
        };
        let sites = Sites::new(Site::build(plan, &connections, &drain).map_err(StartError::Site)?);
        let service = |purpose| Service {
            purpose,
            sites: sites.clone(),
            limits: connection::Limits {
                idle: limits.idle_connection,
                head: limits.request_head,
                write: limits.idle_body,
                source,
            },
            handshake: limits.handshake,
            head_size: usize::try_from(limits.head_size.0).unwrap_or(usize::MAX),
            proxy_protocol: if server.proxy_protocol {
                ProxyProtocol::FromTrusted
            } else {
                ProxyProtocol::Off
            },
            clients: clients.clone(),
            per_client: limits.connections_per_client,
            metrics: Arc::clone(&metrics),
        };
        let bind = |port, flag| {
            let host = server.host;
            listener::bind(host, port).map_err(|error| StartError::Bind { host, port, flag, error })
        };

        let main = bind(server.port, "--port")?;
        let main_address = main.local_addr().unwrap_or(SocketAddr::new(server.host, server.port));
        let mut listeners = Vec::new();
        let (keeper, url, served) = match tls {
            None => {
                listeners.push((main, service(Purpose::Http)));
                (None, format!("http://{main_address}/"), None)
            }
            Some(tls) => {
                // Every port before the first certificate: what fails has made nothing then.
                let redirect = server.http_port.map(|port| bind(port, "--http-port")).transpose()?;
                let (certificates, keeper) = Keeper::open(&tls).map_err(StartError::Tls)?;
                let tickets = tls::ticketer().map_err(StartError::Tls)?;
                let acceptor =
                    TlsAcceptor::from(Arc::new(tls::server_config(Arc::clone(&certificates), tickets)));
                let by_us = !matches!(tls.certificates, CertificateSource::Files { .. });
                let served = Served {
                    certificates: Arc::clone(&certificates),
                    storage: by_us.then(|| Storage::at(&tls.storage)),
                };
                let names = Names { certificates, configured: tls.names.into() };
                let url = names.url(main_address.port());
                if let Some(redirect) = redirect {
                    let purpose = Purpose::Redirect { names: names.clone(), https_port: main_address.port() };
                    listeners.push((redirect, service(purpose)));
                }
                listeners.push((main, service(Purpose::Https { acceptor, names })));
                (Some(keeper), url, Some(served))
            }
        };
        let permits = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let reporter = Reporter {
            metrics: Arc::clone(&metrics),
            sites: sites.clone(),
            most_connections: limits.connections,
            most_per_client: limits.connections_per_client,
            served,
        };
        Ok(Self {
            listeners,
            sites,
            url,
            keeper,
            permits,
            connections,
            metrics,
            control: (control, reporter),
            drain,
            drain_for: limits.drain,
        })
    }

    /// Where the main listener listens.
    pub(crate) fn main_address(&self) -> Option<SocketAddr> {
        // It is pushed last.
        self.listeners.last().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The SHA-256 fingerprint of the first certificate; `None` over plain HTTP.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        self.keeper.as_ref()?.fingerprint()
    }

    /// Serves until a signal asks it to end, or something that must not end does.
    pub(crate) async fn run(self) -> Result<Ended, StartError> {
        let mut termination = signal::Termination::listen().map_err(StartError::Signals)?;
        let inquiry = signal::Inquiry::listen().map_err(StartError::Signals)?;
        let drain = self.drain;
        let mut accepting = JoinSet::new();
        for (listener, service) in self.listeners {
            let listed = listener.local_addr().ok().map(|address| {
                tracing::info!(kind = %service.purpose, %address, "listening");
                self.metrics.list(service.purpose.name(), address)
            });
            let (permits, connections) = (Arc::clone(&self.permits), self.connections.clone());
            let accept = listener::accept(listener, service, permits, connections, drain.clone());
            accepting.spawn(async move {
                let ended = accept.await;
                drop(listed);
                ended
            });
        }
        let keeper = self.keeper.map(|keeper| AbortOnDropHandle::new(tokio::spawn(keeper.run())));
        let site = self.sites.current();
        tracing::info!(url = self.url, backend = %site.backend, front_end = %site.frontend, "serving");
        tracing::info!("ready");
        let _inquiries = AbortOnDropHandle::new(tokio::spawn(answer_inquiries(
            inquiry,
            self.sites.clone(),
            self.connections.clone(),
        )));
        let (directory, reporter) = self.control;
        let _control = AbortOnDropHandle::new(tokio::spawn(control::run(directory, reporter, drain.clone())));
        // Said now, and not with the first request that fails: a backend that is not there yet is no error.
        let _look = AbortOnDropHandle::new(tokio::spawn(async move { site.backend.look().await }));

        let ended = tokio::select! {
            signal = termination.received() => {
                let (open, limit) = (self.connections.len(), self.drain_for);
                tracing::info!(%signal, open, ?limit, "ending when what is open has ended; again ends at once");
                Ended::Drained
            }
            Some(ended) = accepting.join_next() => {
                tracing::error!(?ended, "a listener broke");
                Ended::Broken
            }
            () = outlives(keeper) => {
                tracing::error!("the keeper of certificates ended");
                Ended::Broken
            }
        };
        drain.cancel();
        // The listening sockets close here: who connects now is refused, and can go elsewhere.
        while accepting.join_next().await.is_some() {}
        self.connections.close();
        let deadline = Instant::now() + self.drain_for;
        tokio::select! {
            () = self.connections.wait() => tracing::info!("ended"),
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!(open = self.connections.len(), "the limit is reached; closing what is open");
            }
            signal = termination.received() => tracing::warn!(%signal, "ending at once"),
        }
        Ok(ended)
    }
}

/// Writes what is under way into the log whenever SIGUSR1 asks for it.
async fn answer_inquiries(mut inquiry: signal::Inquiry, sites: Sites, connections: TaskTracker) {
    loop {
        inquiry.received().await;
        let site = sites.current();
        tracing::info!(clients = connections.len(), "status");
        site.backend.log_status();
        if let Frontend::Elsewhere(upstream) = &site.frontend {
            upstream.log_status();
        }
    }
}

/// Ends when the keeper does; never where there is none.
async fn outlives(keeper: Option<AbortOnDropHandle<()>>) {
    match keeper {
        // Whether it returned or panicked: nobody renews certificates any more.
        Some(keeper) => drop(keeper.await),
        None => std::future::pending().await,
    }
}

/// Access lines are of level `info`.
fn access_log(log: &Log) -> AccessLog {
    match log.format {
        _ if !log.access || log.level < tracing::Level::INFO => AccessLog::Off,
        LogFormat::Text => AccessLog::Text,
        LogFormat::Json => AccessLog::Json,
    }
}

fn hsts(age: Duration) -> HeaderValue {
    // A fixed name and decimal digits are visible ASCII.
    HeaderValue::try_from(format!("max-age={}", age.as_secs()))
        .unwrap_or(HeaderValue::from_static("max-age=0"))
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { host, port, flag, error } => {
                write!(f, "cannot listen on {}: {error}", SocketAddr::new(*host, *port))?;
                let kind = error.kind();
                // 443 is 8443 for those who may not have it, 80 is 8080.
                let other = if *port < 1024 { port + 8000 } else { port.checked_add(1).unwrap_or(port - 1) };
                if kind == io::ErrorKind::PermissionDenied {
                    write!(
                        f,
                        "\n  ports below 1024 need a capability: run under the systemd unit \
                         (AmbientCapabilities=CAP_NET_BIND_SERVICE),\n  or take another: {flag} {other}"
                    )?;
                } else if kind == io::ErrorKind::AddrInUse {
                    write!(
                        f,
                        "\n  another program listens there (find it with `ss -ltnp 'sport = :{port}'`): stop it,\n  \
                         or take another port: {flag} {other}"
                    )?;
                } else if kind == io::ErrorKind::AddrNotAvailable {
                    f.write_str(
                        "\n  this machine does not have that address: leave --host off to listen on all",
                    )?;
                }
                Ok(())
            }
            Self::Tls(error) => error.fmt(f),
            Self::Site(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "signals cannot be received: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_had_is_told_with_its_flag_and_another_port() {
        for (port, flag, kind, advice) in [
            (443, "--port", io::ErrorKind::PermissionDenied, "take another: --port 8443"),
            (80, "--http-port", io::ErrorKind::PermissionDenied, "take another: --http-port 8080"),
            (8080, "--http-port", io::ErrorKind::AddrInUse, "take another port: --http-port 8081"),
            (65535, "--port", io::ErrorKind::AddrInUse, "take another port: --port 65534"),
        ] {
            let host = [127, 0, 0, 1].into();
            let text = StartError::Bind { host, port, flag, error: kind.into() }.to_string();
            assert!(text.contains(&format!("127.0.0.1:{port}")) && text.ends_with(advice), "{text}");
        }
    }
}
