//! The new process's side.

use std::{
    fmt, io,
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use rustix::process::getppid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::wire;
use crate::ports::Inherited;

/// How long the old process may take to answer: it has nothing to do but that.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The way to the process that this one takes over from.
#[derive(Debug)]
pub(crate) struct Handover {
    stream: StdUnixStream,
}

/// Why nothing can be taken over.
#[derive(Debug)]
pub(crate) enum HandoverError {
    /// The sockets did not come.
    Sockets(io::Error),
    /// The old process gave up waiting, or ended.
    Gone(io::Error),
}

impl Handover {
    /// The sockets of the process that started this one to take over, if one did.
    pub(crate) fn of_process() -> Result<Option<(Self, Vec<Inherited>)>, HandoverError> {
        let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
        // Inherited further, by a program that we start, it means nothing.
        if super::predecessor().is_none_or(|pid| parent.is_none_or(|parent| *pid != *parent)) {
            return Ok(None);
        }
        let receive = || {
            let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            let sockets = wire::receive(&stream)?;
            Ok((Self { stream }, sockets))
        };
        receive().map(Some).map_err(HandoverError::Sockets)
    }

    /// Says why this process cannot serve.
    pub(crate) fn refuse(mut self, reason: &str) {
        // If nobody listens, the exit code says as much.
        self.stream.write_all(wire::REFUSED).and_then(|()| self.stream.write_all(reason.as_bytes())).ok();
    }

    /// Another way to the same process.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.stream.try_clone().map(|stream| Self { stream })
    }

    /// Says that this process is ready, and waits until it is to serve.
    pub(crate) async fn take_over(self) -> Result<(), HandoverError> {
        let take_over = async {
            self.stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(self.stream)?;
            stream.write_all(wire::READY).await?;
            let mut said = [0; wire::GO.len()];
            stream.read_exact(&mut said).await?;
            if said == *wire::GO { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        match tokio::time::timeout(ANSWER_WITHIN, take_over).await {
            Ok(taken) => taken.map_err(HandoverError::Gone),
            Err(_) => Err(HandoverError::Gone(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockets(error) => write!(f, "the process before passes no sockets: {error}"),
            Self::Gone(error) => write!(f, "the process before does not let this one serve: {error}"),
        }
    }
}

impl std::error::Error for HandoverError {}
