//! A new process in the place of this one, without a refused connection.
//!
//! ```text
//! old: SIGUSR2 → starts the binary that is on disk now ── the listening sockets ──→ new: reads its config, opens all
//!      MAINPID for systemd, lets go of certificates ←─────────── ready ────────────
//!      stops accepting, drains ─────────────────────────────────── go ───────────→ accepts, keeps certificates
//! ```
//!
//! Both have the same sockets, so that a connection which nobody has accepted yet is the next one's. Until `go` the
//! new process touches nothing; if it ends, or is not ready in time, the old one goes on as if nothing had happened.

mod handover;
mod wire;

use std::{
    env,
    ffi::OsString,
    fmt, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
};

pub(crate) use handover::{Handover, HandoverError};

use crate::ports::Meant;

/// Tells the new process that its standard input is the way to this one; the value is this one's id.
const PREDECESSOR: &str = "PARLEY_RELAY_PREDECESSOR";

/// How long a new process may take to be ready. It has files to read and perhaps a key to make.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What a refusal may be long.
const REFUSAL: u64 = 64 << 10;

/// The process that takes over.
pub(crate) struct Successor {
    child: Running,
    stream: UnixStream,
}

/// A process that is killed when it is dropped before it was let go.
struct Running {
    child: Child,
    kept: bool,
}

/// Why there is no new process.
#[derive(Debug)]
pub(crate) enum UpgradeError {
    /// It cannot be started.
    Start { program: PathBuf, error: io::Error },
    /// It cannot be given the sockets.
    Sockets(io::Error),
    /// It said why.
    Refused(String),
    /// It ended without a word.
    Ended(ExitStatus),
    /// It cannot be waited for.
    Wait(io::Error),
    /// It is not ready in time.
    Late,
}

/// Starts the binary that is on disk now, with this one's arguments, environment and sockets, and waits until it is
/// ready. Dropped before that, it kills what it started.
pub(crate) async fn start(
    sockets: impl Iterator<Item = (BorrowedFd<'_>, Meant)>,
) -> Result<Successor, UpgradeError> {
    let program = program();
    let started = |error| UpgradeError::Start { program: program.clone(), error };
    let (ours, theirs) = StdUnixStream::pair().map_err(started)?;
    let mut command = Command::new(&program);
    command
        .args(env::args_os().skip(1))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .env(PREDECESSOR, std::process::id().to_string())
        // These are for this process alone.
        .env_remove("WATCHDOG_PID")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES");
    let child = command.spawn().map_err(started)?;
    // Its end of the pair is closed here with the command.
    drop(command);
    tracing::info!(program = %program.display(), pid = child.id(), "upgrading");
    let mut child = Running { child, kept: false };
    let sockets: Vec<_> = sockets.collect();
    match wire::send(&ours, &sockets) {
        // It has ended already, and how it did tells more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(UpgradeError::Sockets)?,
    }
    ours.set_nonblocking(true).map_err(UpgradeError::Sockets)?;
    let mut stream = UnixStream::from_std(ours).map_err(UpgradeError::Sockets)?;
    match tokio::time::timeout(READY_WITHIN, answer(&mut child.child, &mut stream)).await {
        Ok(Ok(())) => Ok(Successor { child, stream }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(UpgradeError::Late),
    }
}

/// Waits until it says that it is ready.
async fn answer(child: &mut Child, stream: &mut UnixStream) -> Result<(), UpgradeError> {
    let mut said = [0; wire::READY.len()];
    let mut text = String::new();
    match stream.read_exact(&mut said).await {
        Ok(_) if said == *wire::READY => return Ok(()),
        Ok(_) if said == *wire::REFUSED => {
            // What has come of it will do.
            stream.take(REFUSAL).read_to_string(&mut text).await.ok();
        }
        // It closed its end, or says something that we do not understand: its end tells more.
        Ok(_) | Err(_) => {}
    }
    let status = child.wait().await.map_err(UpgradeError::Wait)?;
    Err(if text.trim().is_empty() {
        UpgradeError::Ended(status)
    } else {
        UpgradeError::Refused(text.trim().to_owned())
    })
}

/// What to start: what was started before, as it is on disk now. Through the name that it was started by, since that
/// may be a link to the current version.
fn program() -> PathBuf {
    let named = env::args_os().next().map(PathBuf::from).filter(|name| name.components().count() > 1);
    named.or_else(|| env::current_exe().ok().map(without_deleted)).unwrap_or_else(|| "parley-relay".into())
}

/// The kernel marks the path of a binary that was replaced: the new one is at the path itself.
fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) if !path.exists() => Path::new(text).to_owned(),
        Some(_) | None => path,
    }
}

impl Successor {
    /// Asks it to read its configuration anew.
    pub(crate) fn reload(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        // It is a child that nobody has waited for: the number is its own, and an error says that it has ended.
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).ok();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        // It has not been waited for.
        self.child.child.id().unwrap_or_default()
    }

    /// Lets it serve.
    pub(crate) async fn go(&mut self) {
        self.child.kept = true;
        if let Err(error) = self.stream.write_all(wire::GO).await {
            tracing::error!(%error, "the new process cannot be told to serve");
        }
    }
}

/// Ends if the process that took over fails; never if there is none, or it ends as it was asked to.
pub(crate) async fn failed(successor: &mut Option<Successor>) -> ExitStatus {
    if let Some(successor) = successor
        && let Ok(status) = successor.child.child.wait().await
        && !status.success()
    {
        return status;
    }
    std::future::pending().await
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.kept {
            // An error: it has ended. The runtime waits for it.
            self.child.start_kill().ok();
        }
    }
}

/// The id of the process that this one takes over from, if it was started to.
fn predecessor() -> Option<OsString> {
    env::var_os(PREDECESSOR)
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { program, error } => write!(f, "{} cannot be started: {error}", program.display()),
            Self::Sockets(error) => write!(f, "the new process cannot be given the sockets: {error}"),
            Self::Refused(text) => write!(f, "the new process refuses:\n{text}"),
            Self::Ended(status) => write!(f, "the new process ended before it was ready: {status}"),
            Self::Wait(error) => write!(f, "the new process cannot be waited for: {error}"),
            Self::Late => {
                write!(f, "the new process was not ready in {} s, and was killed", READY_WITHIN.as_secs())
            }
        }
    }
}

impl std::error::Error for UpgradeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_was_replaced_is_found_at_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("relay (deleted)");
        assert_eq!(without_deleted(there.clone()), directory.path().join("relay"));
        std::fs::write(&there, "").unwrap();
        assert_eq!(without_deleted(there.clone()), there);
        assert_eq!(without_deleted("/usr/bin/relay".into()), Path::new("/usr/bin/relay"));
    }
}
