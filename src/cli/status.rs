//! `status`: how the relay is that runs, asked at its control socket.

mod metrics;
mod text;

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{EXIT_UNAVAILABLE, answer};
use crate::{
    config::{self, Environment, Flags},
    control::{SOCKET, STATUS, status::Status},
};

/// Where the relay of a package has its socket: a shell is not told of a unit's runtime directory.
const PACKAGED: &str = "/run/parley-relay";
/// How long the relay may take.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read: a thousand certificates are not half of it.
const LONGEST: u64 = 4 << 20;

/// Which relay is asked, and how what it says is shown.
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// As JSON
    #[arg(long, conflicts_with = "metrics")]
    json: bool,

    /// As metrics in Prometheus' text format; without a relay it is `parley_relay_up 0`
    #[arg(long)]
    metrics: bool,

    #[arg(long, value_name = "FILE", help = super::CONFIG_HELP)]
    config: Option<PathBuf>,

    /// Where the relay keeps keys and certificates
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    storage: Option<PathBuf>,
}

/// Why there is no status.
#[derive(Debug)]
pub(super) enum StatusError {
    /// Nobody answers in any of these directories.
    NoRelay(Vec<PathBuf>),
    /// Somebody does, or might; and this is wrong.
    Socket(PathBuf, io::Error),
    /// What came is no status.
    Answer(PathBuf, serde_json::Error),
    /// The relay that answers is not the one of the config: that one would listen on this port.
    Another(PathBuf, u16),
}

/// The relay that is meant.
pub(super) struct Meant {
    /// Where its socket may be, in the order that is tried.
    pub(super) directories: Vec<PathBuf>,
    /// The port that it listens on, where that is known.
    port: Option<u16>,
}

/// Asks, and shows the answer.
pub(crate) fn run(arguments: &StatusArgs) -> ExitCode {
    let (config, storage) = (arguments.config.as_deref(), arguments.storage.as_deref());
    let meant = match Meant::new(config, storage, &Environment::of_process()) {
        Ok(meant) => meant,
        Err(code) => return code,
    };
    let shown = ask(&meant).map(|(status, json)| {
        if arguments.json {
            json + "\n"
        } else if arguments.metrics {
            metrics::exposition(&status)
        } else {
            text::page(&status, OffsetDateTime::now_utc())
        }
    });
    match shown {
        Ok(shown) => answer(&shown),
        Err(error) => {
            // A collector's file is to say so too, and not to grow old.
            if arguments.metrics && matches!(error, StatusError::NoRelay(_)) {
                answer(metrics::DOWN);
            }
            eprintln!("error: {error}");
            EXIT_UNAVAILABLE.into()
        }
    }
}

impl Meant {
    /// The relay of the config, that with this storage directory, or whichever is found: the installed one's config
    /// is asked too then, and is no obstacle if it is broken or not ours to read. `Err`: the reason has been printed.
    pub(super) fn new(
        config: Option<&Path>,
        storage: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, ExitCode> {
        let load = |file: &Path| config::load(Some(file), &Flags::default(), environment);
        let (mut directories, mut port) = (Vec::new(), None);
        match (config, storage) {
            (Some(file), _) => {
                let loaded = load(file).map_err(|error| super::refuse(&error))?;
                port = Some(loaded.config.server.port).filter(|port| *port != 0);
                directories.push(loaded.config.control);
            }
            (None, Some(storage)) => directories.push(environment.control(storage)),
            (None, None) => {
                let installed = environment.installed_config().and_then(|file| load(&file).ok());
                directories.extend(installed.map(|loaded| loaded.config.control));
                directories.push(environment.control(&environment.storage()));
            }
        }
        if storage.is_none() {
            directories.push(PACKAGED.into());
        }
        let mut seen = BTreeSet::new();
        directories.retain(|directory| seen.insert(directory.clone()));
        Ok(Self { directories, port })
    }
}

/// The status of the first relay that answers, and its own text.
pub(super) fn ask(meant: &Meant) -> Result<(Status, String), StatusError> {
    for directory in &meant.directories {
        let path = directory.join(SOCKET);
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            // None was there, or the one that was is no more.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                continue;
            }
            Err(error) => return Err(StatusError::Socket(path, error)),
        };
        let text = converse(stream).map_err(|error| StatusError::Socket(path.clone(), error))?;
        let status: Status =
            serde_json::from_str(&text).map_err(|error| StatusError::Answer(path.clone(), error))?;
        if let Some(port) = meant.port
            && !status.listeners.iter().any(|listener| listener.address.ends_with(&format!(":{port}")))
        {
            return Err(StatusError::Another(path, port));
        }
        return Ok((status, text));
    }
    Err(StatusError::NoRelay(meant.directories.clone()))
}

/// Asks for the status and reads the answer, in time and within bounds.
fn converse(mut stream: UnixStream) -> io::Result<String> {
    let deadline = Instant::now() + WITHIN;
    stream.set_write_timeout(Some(WITHIN))?;
    stream.write_all(STATUS)?;
    let (mut text, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if text.len() as u64 > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRelay(directories) => {
                let places: Vec<_> =
                    directories.iter().map(|directory| directory.display().to_string()).collect();
                write!(
                    f,
                    "no relay answers in {}; if one runs, name its --config or --storage",
                    places.join(" or ")
                )
            }
            Self::Socket(path, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "{}: {error}; ask as root, or as a member of its group", path.display())
            }
            Self::Socket(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Answer(path, error) => write!(f, "{}: what came is no status: {error}", path.display()),
            Self::Another(path, port) => write!(
                f,
                "the relay that answers at {} is another one: it does not listen on port {port}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StatusError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_relay_is_looked_for_where_its_config_says_and_a_broken_one_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let (installed, kept) = (directory.path().join("config.toml"), directory.path().join("kept"));
        let of_process = Environment { runtime_directory: None, ..Environment::of_process() };
        let environment = Environment { installed: installed.clone(), ..of_process };
        let found = |config: Option<&Path>, storage: Option<&Path>| {
            Meant::new(config, storage, &environment).ok().map(|meant| meant.directories)
        };
        let usual = [environment.storage(), PACKAGED.into()];
        assert_eq!(found(None, None).unwrap(), usual);
        std::fs::write(&installed, "version = 1\nbroken = 1\n").unwrap();
        assert_eq!(found(None, None).unwrap(), usual);
        assert_eq!(found(Some(&installed), None), None);
        let config = "version = 1\n[frontend]\nmode = \"disabled\"\n[tls]\nmode = \"self-signed\"\ndomains = [\"chat.lan\"]\n";
        std::fs::write(&installed, format!("{config}storage = {kept:?}\n")).unwrap();
        assert_eq!(found(None, None).unwrap(), [&kept, &usual[0], &usual[1]].map(PathBuf::clone));
        assert_eq!(found(None, Some(Path::new("/s"))).unwrap(), [Path::new("/s")]);
    }
}
