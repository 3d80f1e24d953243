//! The signals that end the process, and those that ask something of it.

use std::{fmt, io};

use tokio::signal::unix::{self, SignalKind};

/// SIGTERM and SIGINT, from when this was made.
pub(crate) struct Termination {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

/// One signal that asks something, from when this was made.
pub(crate) struct Asked(unix::Signal);

impl Asked {
    /// SIGUSR1: how it is.
    pub(crate) fn for_status() -> io::Result<Self> {
        unix::signal(SignalKind::user_defined1()).map(Self)
    }

    /// SIGHUP: to read the configuration anew.
    pub(crate) fn to_reload() -> io::Result<Self> {
        unix::signal(SignalKind::hangup()).map(Self)
    }

    /// SIGHUP too: nothing, of a process that has nothing to reload; the terminal that it was started at is gone.
    pub(crate) fn at_hang_up() -> io::Result<Self> {
        Self::to_reload()
    }

    /// SIGUSR2: to let a new process take over.
    pub(crate) fn to_upgrade() -> io::Result<Self> {
        unix::signal(SignalKind::user_defined2()).map(Self)
    }

    /// The next one.
    pub(crate) async fn received(&mut self) {
        self.0.recv().await;
    }
}

/// Which of them came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
}

impl Termination {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub(crate) async fn received(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}
