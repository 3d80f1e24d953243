//! The signals that end the process, and the one that asks how it is.

use std::{fmt, io};

use tokio::signal::unix::{self, SignalKind};

/// SIGTERM and SIGINT, from when this was made.
pub(crate) struct Termination {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

/// SIGUSR1, from when this was made.
pub(crate) struct Inquiry(unix::Signal);

impl Inquiry {
    pub(crate) fn listen() -> io::Result<Self> {
        unix::signal(SignalKind::user_defined1()).map(Self)
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
