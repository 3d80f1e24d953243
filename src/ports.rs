//! The ports that are open: what a configuration wants of them, and who has bound them already.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    budget::Budget,
    connection::Service,
    listener::{self, Accepting, Port, Probe},
    metrics::Listed,
};

/// What a port is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Main,
    Redirect,
}

/// A port that a configuration wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) role: Role,
    pub(crate) host: IpAddr,
    /// 0 lets the system choose.
    pub(crate) port: u16,
}

/// A listening socket that somebody else has bound: systemd, or the process before this one.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) listener: StdListener,
    pub(crate) purpose: Meant,
}

/// What an inherited socket is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Meant {
    /// Whoever wants its port.
    Port,
    /// The port of this role, whatever its number: it has a name that says so.
    Role(Role),
    /// What it was for in the process before, which wanted this address.
    Before(Role, SocketAddr),
}

/// A port that was asked for and can be had.
pub(crate) struct Had {
    role: Role,
    wanted: SocketAddr,
    listener: Arc<TcpListener>,
    /// Where it really listens.
    pub(crate) address: SocketAddr,
}

/// Why a port cannot be had.
#[derive(Debug)]
pub(crate) struct BindError {
    pub(crate) wanted: Wanted,
    pub(crate) error: io::Error,
}

/// The same error, with advice for the config file.
pub(crate) struct AdvisedByConfig<'a>(&'a BindError);

/// What an error advises to change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    Flag,
    Config,
}

/// All that are open.
pub(crate) struct Ports {
    open: Vec<Open>,
    inherited: Vec<Inherited>,
    accepting: JoinSet<io::Result<()>>,
    permits: Budget,
    connections: TaskTracker,
    /// Cancelled when the relay ends.
    drain: CancellationToken,
    probes: watch::Sender<Vec<Probe>>,
}

struct Open {
    had: Had,
    service: Arc<ArcSwap<Service>>,
    closing: CancellationToken,
    /// Cancelled when nobody is accepted here any more.
    ended: CancellationToken,
    probe: Probe,
    _listed: Listed,
}

impl Role {
    /// The flag that chooses the port.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Main => "--port",
            Self::Redirect => "--http-port",
        }
    }

    /// The key under `[server]` that does.
    fn key(self) -> &'static str {
        match self {
            Self::Main => "port",
            Self::Redirect => "http_port",
        }
    }

    /// By the name of a socket that systemd passes (`FileDescriptorName=`).
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name {
            "https" | "main" => Some(Self::Main),
            "http" | "redirect" => Some(Self::Redirect),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main",
            Self::Redirect => "redirect",
        })
    }
}

impl Wanted {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

impl Ports {
    pub(crate) fn new(
        inherited: Vec<Inherited>,
        permits: Budget,
        connections: TaskTracker,
        drain: CancellationToken,
    ) -> Self {
        let probes = watch::Sender::default();
        Self { open: Vec::new(), inherited, accepting: JoinSet::new(), permits, connections, drain, probes }
    }

    /// The port, open already, inherited, or bound now. Nothing that is open changes.
    pub(crate) fn have(&self, wanted: Wanted) -> Result<Had, BindError> {
        let Wanted { role, host, port } = wanted;
        let with = |error| BindError { wanted, error };
        let listener = if let Some(open) = self.open.iter().find(|open| open.is(&wanted)) {
            Arc::clone(&open.had.listener)
        } else if let Some(inherited) = self.inherited.iter().find(|inherited| inherited.is(&wanted)) {
            Arc::new(inherited.listener().map_err(with)?)
        } else {
            // Another address with the same port overlaps with the one that is open, as `::` does with all others.
            let own = self.open.iter().find(|open| port != 0 && open.had.address.port() == port);
            let bound = match own {
                None => listener::bind(host, port, Port::Alone),
                Some(own) => {
                    // Only with a socket that agrees, and only for the same user.
                    let agreed = SockRef::from(&*own.had.listener).set_reuse_port(true);
                    agreed.and_then(|()| listener::bind(host, port, Port::Shared))
                }
            };
            Arc::new(bound.map_err(with)?)
        };
        let address = listener.local_addr().map_err(with)?;
        Ok(Had { role, wanted: wanted.address(), listener, address })
    }

    /// Opens what was had, each with its service, and closes everything else: nobody is accepted there any more,
    /// and who was is served to the end. What was open and stays is the same socket with another service.
    pub(crate) async fn set(&mut self, wanted: Vec<(Had, Service)>) {
        let mut before = std::mem::take(&mut self.open);
        for (had, service) in wanted {
            let service = Arc::new(service);
            let same = before.iter().position(|open| Arc::ptr_eq(&open.had.listener, &had.listener));
            if let Some(at) = same {
                let open = before.swap_remove(at);
                let listed = list(&service, had.address);
                open.service.store(service);
                self.open.push(Open { had, _listed: listed, ..open });
                continue;
            }
            tracing::info!(kind = %service.purpose, address = %had.address, "listening");
            let open = self.accept(had, service);
            self.open.push(open);
        }
        for closed in before {
            tracing::info!(address = %closed.had.address, "no longer listening");
            let ended = closed.ended.clone();
            closed.closing.cancel();
            drop(closed);
            // At once: the loop takes what waits, and never waits itself.
            ended.cancelled().await;
        }
        // Of the process before: a socket that nobody accepts from takes clients in for nothing. systemd's stay
        // open whether we keep them or not, and the next configuration may want them.
        self.inherited.retain(|inherited| !matches!(inherited.purpose, Meant::Before(..)));
        for unused in self.unused() {
            let address = unused.listener.local_addr().ok();
            tracing::warn!(?address, "a socket was passed that the configuration has no use for");
        }
        self.probes.send_replace(self.open.iter().map(|open| open.probe.clone()).collect());
    }

    fn accept(&mut self, had: Had, service: Arc<Service>) -> Open {
        let (probe, probes) = mpsc::channel(1);
        let listed = list(&service, had.address);
        let service = Arc::new(ArcSwap::new(service));
        let closing = self.drain.child_token();
        let accepting = Accepting {
            listener: Arc::clone(&had.listener),
            service: Arc::clone(&service),
            permits: self.permits.clone(),
            connections: self.connections.clone(),
            closing: closing.clone(),
            drain: self.drain.clone(),
            probes,
        };
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        self.accepting.spawn(async move {
            let result = accepting.run().await;
            drop(guard);
            result
        });
        Open { had, service, closing, ended, probe, _listed: listed }
    }

    /// The bound on connections.
    pub(crate) fn permits(&self) -> &Budget {
        &self.permits
    }

    /// What asks each accept loop whether it still turns.
    pub(crate) fn probes(&self) -> watch::Receiver<Vec<Probe>> {
        self.probes.subscribe()
    }

    /// Every socket and what it is for, as the next process is to have it.
    pub(crate) fn bequest(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Meant)> {
        let open = self
            .open
            .iter()
            .map(|open| (open.had.listener.as_fd(), Meant::Before(open.had.role, open.had.wanted)));
        open.chain(self.unused().map(|inherited| (inherited.listener.as_fd(), inherited.purpose)))
    }

    /// What was passed and is not open here.
    fn unused(&self) -> impl Iterator<Item = &Inherited> {
        let is_open = |address| self.open.iter().any(|open| open.had.address == address);
        self.inherited.iter().filter(move |inherited| !inherited.listener.local_addr().is_ok_and(is_open))
    }

    /// Where the main port listens.
    pub(crate) fn main_address(&self) -> Option<SocketAddr> {
        let main = self.open.iter().find(|open| open.had.role == Role::Main)?;
        Some(main.had.address)
    }

    /// Ends when a port does that was not closed.
    pub(crate) async fn broken(&mut self) -> String {
        loop {
            match self.accepting.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error.to_string(),
                Some(Err(error)) => return error.to_string(),
                None => std::future::pending().await,
            }
        }
    }

    /// Closes all, once the drain has begun: who connects now is refused, and can go elsewhere.
    pub(crate) async fn close(&mut self) {
        self.open.clear();
        self.inherited.clear();
        while self.accepting.join_next().await.is_some() {}
    }
}

/// Lets who asks how the relay is see that it listens there.
fn list(service: &Service, address: SocketAddr) -> Listed {
    service.metrics.list(service.purpose.name(), address)
}

impl Open {
    fn is(&self, wanted: &Wanted) -> bool {
        // Two that the system chose are told apart by what they are for.
        self.had.wanted == wanted.address() && (wanted.port != 0 || self.had.role == wanted.role)
    }
}

impl Inherited {
    fn is(&self, wanted: &Wanted) -> bool {
        let has_its_port = || self.listener.local_addr().is_ok_and(|address| address.port() == wanted.port);
        match self.purpose {
            Meant::Port => has_its_port(),
            // Over plain HTTP the main port may well be called `http`.
            Meant::Role(role) => role == wanted.role || has_its_port(),
            Meant::Before(role, before) => {
                before == wanted.address() && (wanted.port != 0 || role == wanted.role)
            }
        }
    }

    fn listener(&self) -> io::Result<TcpListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(f, By::Flag)
    }
}

impl fmt::Display for AdvisedByConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tell(f, By::Config)
    }
}

impl BindError {
    /// For somebody who has changed the config of a relay that runs: its flags stay as they are.
    pub(crate) fn advised_by_config(&self) -> AdvisedByConfig<'_> {
        AdvisedByConfig(self)
    }

    fn tell(&self, f: &mut fmt::Formatter<'_>, by: By) -> fmt::Result {
        let Wanted { role, port, .. } = self.wanted;
        let (choice, host) = match by {
            By::Flag => (format!("{} ", role.flag()), "--host"),
            By::Config => (format!("[server] {} = ", role.key()), "[server] host"),
        };
        write!(f, "cannot listen on {}: {}", self.wanted.address(), self.error)?;
        let kind = self.error.kind();
        // 443 is 8443 for those who may not have it, 80 is 8080.
        let other = if port < 1024 { port + 8000 } else { port.checked_add(1).unwrap_or(port - 1) };
        if kind == io::ErrorKind::PermissionDenied {
            write!(
                f,
                "\n  ports below 1024 are for root (sudo), or need a capability, as the systemd unit has it \
                 (AmbientCapabilities=CAP_NET_BIND_SERVICE);\n  or take another: {choice}{other}"
            )?;
        } else if kind == io::ErrorKind::AddrInUse {
            write!(
                f,
                "\n  another program listens there (find it with `ss -ltnp 'sport = :{port}'`): stop it,\n  \
                 or take another port: {choice}{other}"
            )?;
        } else if kind == io::ErrorKind::AddrNotAvailable {
            write!(f, "\n  this machine does not have that address: leave {host} off to listen on all")?;
        }
        Ok(())
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_had_is_told_with_its_flag_and_another_port() {
        for (port, role, kind, advice) in [
            (443, Role::Main, io::ErrorKind::PermissionDenied, "take another: --port 8443"),
            (80, Role::Redirect, io::ErrorKind::PermissionDenied, "take another: --http-port 8080"),
            (8080, Role::Redirect, io::ErrorKind::AddrInUse, "take another port: --http-port 8081"),
            (65535, Role::Main, io::ErrorKind::AddrInUse, "take another port: --port 65534"),
        ] {
            let wanted = Wanted { role, host: [127, 0, 0, 1].into(), port };
            let text = BindError { wanted, error: kind.into() }.to_string();
            assert!(text.contains(&format!("127.0.0.1:{port}")) && text.ends_with(advice), "{text}");
            let text = BindError { wanted, error: kind.into() }.advised_by_config().to_string();
            let advice = advice.replace("--port", "[server] port =");
            assert!(text.ends_with(&advice.replace("--http-port", "[server] http_port =")), "{text}");
        }
    }
}
