//! What systemd is told (sd_notify(3)), and the sockets that it passes (sd_listen_fds(3)).

use std::{
    env, fmt, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use tokio::sync::{oneshot, watch};

use crate::{
    listener::Probe,
    ports::{Inherited, Meant, Role},
};

/// The way to the service manager; there may be none.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we are alive.
    watchdog: Option<Duration>,
}

/// Why there is no way to a manager that says there is one.
#[derive(Debug)]
pub(crate) struct NotifySocketError(io::Error);

impl Manager {
    /// The manager that started this process, if one did: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(crate) fn of_process() -> Result<Self, NotifySocketError> {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let opened = || {
            // An `@` stands for the null byte of an abstract address.
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&path)?,
            };
            let socket = UnixDatagram::unbound()?;
            // A manager that takes nothing must not hold us up.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        };
        let socket = opened().map_err(NotifySocketError)?;
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// Everything serves.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// The configuration is read anew; [`Self::ready`] says when that is over, however it went.
    pub(crate) fn reloading(&self) {
        // systemd tells by this whether a `READY=1` belongs to it.
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reloading"));
    }

    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", line(status)));
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", line(status)));
    }

    /// Another process is the service from now on.
    pub(crate) fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }

    /// Says that we are alive, twice in the time that the manager gives us, for as long as that is true: the timer
    /// runs, tasks run, and each accept loop answers. Never returns.
    pub(crate) async fn keep_watchdog(&self, probes: watch::Receiver<Vec<Probe>>) {
        let Some(within) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        let mut tick = tokio::time::interval(within / 2);
        loop {
            tick.tick().await;
            let loops = probes.borrow().clone();
            // On another worker, where there is one: this task alone proves little.
            let alive = tokio::spawn(tokio::time::timeout(within / 2, answers(loops)));
            match alive.await {
                Ok(Ok(())) => self.send("WATCHDOG=1"),
                Ok(Err(_)) => {
                    tracing::error!("an accept loop does not answer; the watchdog is not told that it does")
                }
                Err(error) => tracing::error!(%error, "the watchdog is told nothing"),
            }
        }
    }
}

/// Waits for an answer of each accept loop. One that a reload closes meanwhile owes none.
async fn answers(loops: Vec<Probe>) {
    for probe in loops {
        let (answer, answered) = oneshot::channel();
        if probe.send(answer).await.is_ok() {
            answered.await.ok();
        }
    }
}

/// A value of one line: the manager reads line by line.
fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The sockets that systemd passes, for as long as it listens itself: `LISTEN_FDS`, `LISTEN_PID`,
/// `LISTEN_FDNAMES`. Sockets named `https` or `main`, and `http` or `redirect`, are those ports whatever their
/// number; others go by their port. Takes the variables out of the environment, so before any thread is started.
pub(crate) fn passed_sockets() -> io::Result<Vec<Inherited>> {
    // Read first: without the others it means nothing, and they are gone afterwards.
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let role = names.next().and_then(Role::of_name);
        let Some(listener) = passed.take_tcp_listener(index)? else {
            continue;
        };
        if !SockRef::from(&listener).is_listener()? {
            let kind = io::ErrorKind::InvalidInput;
            return Err(io::Error::new(
                kind,
                "a passed socket does not listen: the .socket unit needs Accept=no",
            ));
        }
        sockets.push(Inherited { listener, purpose: role.map_or(Meant::Port, Meant::Role) });
    }
    Ok(sockets)
}

impl fmt::Display for NotifySocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NOTIFY_SOCKET names no socket: {}", self.0)
    }
}

impl std::error::Error for NotifySocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A manager that is to be told every 100 ms that we are alive, and its end of the socket.
    fn manager(directory: &tempfile::TempDir) -> (Manager, UnixDatagram) {
        let path = directory.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        theirs.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let ours = UnixDatagram::unbound().unwrap();
        (Manager { socket: Some((ours, address)), watchdog: Some(Duration::from_millis(100)) }, theirs)
    }

    /// Whether the manager hears of the watchdog, with one accept loop that does `answer`.
    async fn hears(answer: impl Fn(oneshot::Sender<()>) + Send + 'static) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let (manager, theirs) = manager(&directory);
        let (probe, mut probes) = mpsc::channel::<oneshot::Sender<()>>(1);
        let (_sender, receiver) = watch::channel(vec![probe]);
        let accepting = tokio::spawn(async move {
            while let Some(asked) = probes.recv().await {
                answer(asked);
            }
        });
        let watchdog = tokio::spawn(async move { manager.keep_watchdog(receiver).await });
        let heard = tokio::task::spawn_blocking(move || {
            let mut message = [0; 100];
            theirs.recv(&mut message).is_ok_and(|length| message[..length] == *b"WATCHDOG=1")
        });
        let heard = heard.await.unwrap();
        watchdog.abort();
        accepting.abort();
        heard
    }

    #[tokio::test]
    async fn the_watchdog_is_told_while_every_accept_loop_answers() {
        assert!(hears(|asked| asked.send(()).unwrap()).await);
        // It holds the question, and never comes to answer it.
        assert!(!hears(std::mem::forget).await);
    }

    #[test]
    fn what_is_told_stays_on_its_line() {
        assert_eq!(line("a\nREADY=1\r"), "a READY=1 ");
    }
}
