//! The control socket: who may open it asks how the relay is. It is no TCP port, and nothing can be changed by it.
//!
//! It lies in the runtime directory or else in the storage directory. Whoever has the lock beside it owns it: a socket
//! that a dead relay left is replaced, and that of a living one is never taken; when that one ends, the next has it.

mod report;
pub(crate) mod status;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time,
};
use tokio_util::sync::CancellationToken;

pub(crate) use report::{Reporter, Served};

use crate::storage::{Lock, Storage, StorageError};

/// The socket's name in its directory.
pub(crate) const SOCKET: &str = "control.sock";
const LOCK: &str = "control.lock";
/// All that can be asked yet.
pub(crate) const STATUS: &[u8] = b"status\n";
/// The longest request.
const LONGEST: u64 = 64;
/// How long a conversation may take. There is one at a time: few ask, and what they cost is bounded so.
const WITHIN: Duration = Duration::from_secs(2);
/// When to look again whether the socket can be had, or what keeps it from being accepted on is over.
const AGAIN: Duration = Duration::from_secs(1);

/// The socket, until it is dropped: then the next may have it.
struct Bound {
    listener: UnixListener,
    path: PathBuf,
    _lock: Lock,
}

/// Why there is no socket.
#[derive(Debug)]
enum BindError {
    Storage(StorageError),
    Socket(PathBuf, io::Error),
}

/// Answers at the socket in `directory` until `drain` is cancelled. Where there can be none, that is told and nothing
/// else happens: a relay serves without it.
pub(crate) async fn run(directory: PathBuf, reporter: Arc<ArcSwap<Reporter>>, drain: CancellationToken) {
    let answering = async {
        let bound = match bind_in_turn(&directory).await {
            Ok(bound) => bound,
            Err(error) => return tracing::warn!("no status can be asked for: {error}"),
        };
        tracing::debug!(socket = %bound.path.display(), "status can be asked for");
        loop {
            match bound.listener.accept().await {
                Ok((stream, _)) => match time::timeout(WITHIN, answer(stream, &reporter.load_full())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "whoever asked for the status is gone"),
                    Err(_) => tracing::debug!("whoever asked for the status was too slow"),
                },
                Err(error) => {
                    tracing::debug!(%error, "nobody can ask for the status for now");
                    time::sleep(AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        () = answering => {}
        () = drain.cancelled() => {}
    }
}

/// The socket as soon as no other relay has it.
async fn bind_in_turn(directory: &Path) -> Result<Bound, BindError> {
    let mut told = false;
    loop {
        if let Some(bound) = bind(directory)? {
            return Ok(bound);
        }
        if !std::mem::replace(&mut told, true) {
            let directory = directory.display();
            tracing::info!(%directory, "another relay has the control socket there; it is ours when that one ends");
        }
        time::sleep(AGAIN).await;
    }
}

/// `None`: another relay has it.
fn bind(directory: &Path) -> Result<Option<Bound>, BindError> {
    let storage = Storage::at(directory);
    let Some(lock) = storage.try_lock(LOCK).map_err(BindError::Storage)? else {
        return Ok(None);
    };
    // With the lock ours, what lies there is of a relay that is no more.
    storage.remove(SOCKET).map_err(BindError::Storage)?;
    let path = storage.path(SOCKET);
    let listen = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&path)?;
        // For its owner and group: who may ask is a matter of the group. Until here the umask was stricter for others.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    let listener = listen().map_err(|error| BindError::Socket(path.clone(), error))?;
    Ok(Some(Bound { listener, path, _lock: lock }))
}

impl Drop for Bound {
    fn drop(&mut self) {
        // An error leaves a socket that nobody answers at, and the next one replaces it.
        fs::remove_file(&self.path).ok();
    }
}

async fn answer(mut stream: UnixStream, reporter: &Reporter) -> io::Result<()> {
    let mut asked = Vec::new();
    let (reading, mut writing) = stream.split();
    BufReader::new(reading.take(LONGEST)).read_until(b'\n', &mut asked).await?;
    let answer = if asked == STATUS {
        serde_json::to_vec(&reporter.status().await)?
    } else {
        br#"{"error":"unknown request"}"#.to_vec()
    };
    writing.write_all(&answer).await?;
    writing.shutdown().await
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Socket(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BindError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        // As a killed relay leaves it.
        drop(std::os::unix::net::UnixListener::bind(directory.path().join(SOCKET)).unwrap());
        let bound = bind(directory.path()).unwrap().unwrap();
        let mode = fs::metadata(&bound.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(bind(directory.path()).unwrap().is_none());
        UnixStream::connect(&bound.path).await.unwrap();
        drop(bound);
        assert!(!directory.path().join(SOCKET).exists());
        assert!(bind(directory.path()).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_for_a_socket_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = bind(&directory.path().join("d".repeat(120))).err().unwrap().to_string();
        assert!(error.contains("ddd/control.sock: "), "{error}");
    }
}
