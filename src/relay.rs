//! Runs, reloads, hands over and drains: the one owner of every long-lived task.

mod edge;
mod prepared;
mod reload;
mod status;

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::{
    edge::Edge,
    prepared::{Prepared, Present, Secured},
};
use crate::{
    admission::Clients,
    budget::Budget,
    config::{Config, ConfigError, Loaded, ServerName},
    control::{self, Reporter},
    drain::Drain,
    keeper::KeeperError,
    log::Logging,
    metrics::Metrics,
    ports::{BindError, Inherited, Ports},
    run_file::RunFile,
    signal,
    site::{SiteError, Sites},
    systemd,
    tls::Predecessor,
    upgrade::{self, Handover, HandoverError, Successor},
};

/// A relay that is bound and about to run.
pub(crate) struct Relay {
    prepared: Prepared,
    ports: Ports,
    surroundings: Surroundings,
    /// Client connections, those that became tunnels among them.
    connections: TaskTracker,
    drain: Drain,
    metrics: Arc<Metrics>,
    /// What each client has of them.
    clients: Clients,
}

/// What a relay has to do with besides its configuration.
pub(crate) struct Surroundings {
    /// Reads the configuration anew.
    pub(crate) load: Arc<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>,
    pub(crate) logging: Logging,
    pub(crate) manager: systemd::Manager,
    /// Listening sockets that somebody else has bound.
    pub(crate) inherited: Vec<Inherited>,
    /// The process that this one takes over from.
    pub(crate) handover: Option<Handover>,
    /// Where `parley-relay upgrade` finds this process.
    pub(crate) run_file: Option<RunFile>,
}

/// A relay that runs.
struct Running {
    ports: Ports,
    sites: Sites,
    edge: Option<Edge>,
    names: Vec<ServerName>,
    load: Arc<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>,
    logging: Logging,
    manager: Arc<systemd::Manager>,
    run_file: Option<RunFile>,
    connections: TaskTracker,
    metrics: Arc<Metrics>,
    clients: Clients,
    /// What is told at the control socket, and in which directory that lies.
    reporter: Arc<ArcSwap<Reporter>>,
    control: PathBuf,
    /// Begins when the relay is to end.
    drain: Drain,
    /// How long open requests may take then.
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

/// Why a running relay is to end.
enum Why {
    Asked(signal::Signal),
    /// Another process serves now.
    Replaced(Box<Successor>),
    Broken,
}

/// Why a relay cannot start.
#[derive(Debug)]
pub(crate) enum StartError {
    Bind(BindError),
    Certificates(KeeperError),
    Site(SiteError),
    /// The system lets no signal be received.
    Signals(io::Error),
    /// The process before does not let go.
    Handover(HandoverError),
}

impl Relay {
    /// Takes a configuration apart, opens certificates and binds every port: all that can fail at a start.
    pub(crate) fn bind(config: Config, mut surroundings: Surroundings) -> Result<Self, StartError> {
        let (connections, drain) = (TaskTracker::new(), Drain::default());
        let permits = Budget::new(config.limits.connections);
        let inherited = std::mem::take(&mut surroundings.inherited);
        let ports = Ports::new(inherited, permits, connections.clone(), drain.begun().clone());
        let (metrics, clients) = (Arc::new(Metrics::new()), Clients::default());
        let predecessor =
            if surroundings.handover.is_some() { Predecessor::Running } else { Predecessor::None };
        let present = Present {
            ports: &ports,
            drain: &drain,
            metrics: &metrics,
            clients: &clients,
            site: None,
            edge: None,
            predecessor,
        };
        let prepared = Prepared::new(config, present)?;
        Ok(Self { prepared, ports, surroundings, connections, drain, metrics, clients })
    }

    /// Where the main listener listens.
    pub(crate) fn main_address(&self) -> Option<SocketAddr> {
        self.prepared.main_address()
    }

    /// The SHA-256 fingerprint of the first certificate; `None` over plain HTTP.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        let Secured::New(edge) = &self.prepared.tls else { return None };
        edge.certificates.first().map(|first| first.fingerprint.clone())
    }

    /// Serves until a signal asks it to end, or something that must not end does.
    pub(crate) async fn run(self) -> Result<Ended, StartError> {
        let mut termination = signal::Termination::listen().map_err(StartError::Signals)?;
        let inquiry = signal::Asked::for_status().map_err(StartError::Signals)?;
        let mut reload = signal::Asked::to_reload().map_err(StartError::Signals)?;
        let mut upgrade = signal::Asked::to_upgrade().map_err(StartError::Signals)?;
        let Self { prepared, ports, surroundings, connections, drain, metrics, clients } = self;
        let Surroundings { load, logging, manager, inherited: _, handover, run_file } = surroundings;
        if let Some(handover) = handover {
            tokio::select! {
                handed_over = handover.take_over() => handed_over.map_err(StartError::Handover)?,
                _ = termination.received() => return Ok(Ended::Drained),
            }
        }
        let Prepared { site, ports: wanted, serving, tls, names, url, drain_for, .. } = prepared;
        let (most_connections, control) = (prepared.connections, prepared.control);
        let sites = Sites::new(site);
        let reporter = Arc::new(ArcSwap::from_pointee(serving.reporter(
            most_connections,
            prepared.files,
            prepared.served,
            &sites,
        )));
        let ended = drain.begun().clone();
        let _control =
            AbortOnDropHandle::new(tokio::spawn(control::run(control.clone(), Arc::clone(&reporter), ended)));
        let edge = match tls {
            Secured::New(edge) => Some(*edge),
            Secured::Not | Secured::Same => None,
        };
        let manager = Arc::new(manager);
        let mut running = Running {
            ports,
            sites: sites.clone(),
            edge,
            names,
            load,
            logging,
            manager: Arc::clone(&manager),
            run_file,
            connections: connections.clone(),
            metrics,
            clients,
            reporter,
            control,
            drain,
            drain_for,
        };
        running
            .ports
            .set(wanted.into_iter().map(|(had, purpose)| (had, serving.of(purpose, &sites))).collect())
            .await;
        if let Some(edge) = &mut running.edge {
            edge.keep();
        }
        let site = sites.current();
        tracing::info!(url, backend = %site.backend, front_end = %site.frontend, "serving");
        manager.ready(&running.status());
        if let Some(run_file) = &mut running.run_file {
            run_file.write();
        }
        tracing::info!("ready");
        let probes = running.ports.probes();
        let watchdog = Arc::clone(&manager);
        let _inquiries =
            AbortOnDropHandle::new(tokio::spawn(status::answer_inquiries(inquiry, sites, connections)));
        // Said now, and not with the first request that fails: a backend that is not there yet is no error.
        let _look = AbortOnDropHandle::new(tokio::spawn(async move { site.backend.look().await }));
        let watchdog =
            AbortOnDropHandle::new(tokio::spawn(async move { watchdog.keep_watchdog(probes).await }));

        let why = running.serve(&mut termination, &mut reload, &mut upgrade).await;
        // Once another process has taken over, it is the one that has to be alive.
        let _watchdog = (!matches!(why, Why::Replaced(_))).then_some(watchdog);
        Ok(running.end(why, &mut termination, &mut reload).await)
    }
}

impl Running {
    /// Serves, reloads and upgrades until there is a reason to end.
    async fn serve(
        &mut self,
        termination: &mut signal::Termination,
        reload: &mut signal::Asked,
        upgrade: &mut signal::Asked,
    ) -> Why {
        let mut status = status::Told::new(self.status());
        loop {
            tokio::select! {
                signal = termination.received() => return Why::Asked(signal),
                error = self.ports.broken() => {
                    tracing::error!(error, "a listener broke");
                    return Why::Broken;
                }
                () = unkept(&mut self.edge) => {
                    tracing::error!("the keeper of certificates ended");
                    return Why::Broken;
                }
                () = reload.received() => {
                    self.manager.reloading();
                    // What is read may lie on a disk that does not answer.
                    let prepared = tokio::select! {
                        prepared = self.prepare() => prepared,
                        signal = termination.received() => return Why::Asked(signal),
                    };
                    self.reload(prepared).await;
                }
                () = upgrade.received() => {
                    let upgraded = tokio::select! {
                        upgraded = upgrade::start(self.ports.bequest()) => upgraded,
                        signal = termination.received() => return Why::Asked(signal),
                    };
                    match upgraded {
                        Ok(successor) => return Why::Replaced(Box::new(successor)),
                        Err(error) => {
                            let reason = error.to_string();
                            let mut lines = reason.lines();
                            let first = lines.next().unwrap_or_default();
                            tracing::error!("no upgrade, and this process goes on as before: {first}");
                            // Not as a field: they have carets that point at something.
                            lines.for_each(|line| tracing::error!("{line}"));
                            if let Some(run_file) = &mut self.run_file {
                                run_file.refused(&reason);
                            }
                        }
                    }
                }
                () = status.due() => status.tell(&self.manager, self.status()),
            }
        }
    }

    /// Lets what is open end, within its time.
    async fn end(
        mut self,
        why: Why,
        termination: &mut signal::Termination,
        reload: &mut signal::Asked,
    ) -> Ended {
        let (open, streams, limit) = (self.connections.len(), self.drain.streams(), self.drain_for);
        let mut successor = None;
        let ended = match why {
            Why::Asked(signal) => {
                tracing::info!(
                    %signal, open, streams, ?limit,
                    "ending when what is open has ended; again ends at once"
                );
                self.manager.stopping(&format!("ending: {open} connections, {streams} streams"));
                Ended::Drained
            }
            Why::Replaced(mut next) => {
                let pid = next.pid();
                self.manager.main_pid(pid);
                if let Some(edge) = &mut self.edge {
                    edge.let_go();
                }
                if let Some(run_file) = &mut self.run_file {
                    run_file.leave();
                }
                next.go().await;
                tracing::info!(
                    pid,
                    open,
                    streams,
                    ?limit,
                    "another process has taken over; ending when what is open has ended"
                );
                successor = Some(*next);
                Ended::Drained
            }
            Why::Broken => {
                self.manager.stopping("ending: something broke");
                Ended::Broken
            }
        };
        self.drain.begin(limit);
        // The listening sockets close here: who connects now is refused, unless another process has them too.
        self.ports.close().await;
        self.connections.close();
        let over = tokio::time::sleep(limit);
        let mut over = std::pin::pin!(over);
        loop {
            tokio::select! {
                biased;
                // It was meant for whoever serves: who sent it may not know of the upgrade, or was a moment early.
                () = reload.received(), if successor.is_some() => {
                    if let Some(successor) = &successor {
                        successor.reload();
                    }
                    continue;
                }
                signal = termination.received() => tracing::warn!(%signal, "ending at once"),
                status = upgrade::failed(&mut successor) => {
                    // As long as this one lives, nobody would start another.
                    tracing::error!(%status, "the process that took over failed; ending at once");
                    return Ended::Broken;
                }
                () = self.connections.wait() => tracing::info!("ended"),
                () = &mut over => {
                    tracing::warn!(open = self.connections.len(), "the limit is reached; closing what is open");
                }
            }
            return ended;
        }
    }
}

async fn unkept(edge: &mut Option<Edge>) {
    match edge {
        Some(edge) => edge.unkept().await,
        None => std::future::pending().await,
    }
}

impl StartError {
    /// For somebody who has changed the config of a relay that runs.
    pub(crate) fn advised_by_config(&self) -> String {
        match self {
            Self::Bind(error) => error.advised_by_config().to_string(),
            Self::Certificates(_) | Self::Site(_) | Self::Signals(_) | Self::Handover(_) => self.to_string(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Certificates(error) => error.fmt(f),
            Self::Site(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "signals cannot be received: {error}"),
            Self::Handover(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}
