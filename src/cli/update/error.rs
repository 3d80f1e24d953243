//! Why there was no update, and how much of it had happened.

use std::{error::Error, fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

use http::{StatusCode, uri::Authority};
use semver::Version;

use super::{kept::KeptError, trust::TrustError};
use crate::{
    cli::{EXIT_CONFIG, EXIT_INTERNAL, EXIT_TRY_AGAIN, EXIT_UNAVAILABLE, health::HealthError},
    error::Chain,
};

/// What came is not what a release is (sysexits.h: EX_DATAERR).
const EXIT_DATA: u8 = 65;
/// A file cannot be written (EX_CANTCREAT).
const EXIT_CANNOT_CREATE: u8 = 73;

/// Why `update` did not end with a newer relay that runs. Up to [`Self::RolledBack`] nothing was replaced.
#[derive(Debug)]
pub(super) enum UpdateError {
    /// Releases have no file for this kind of machine.
    Machine,
    /// The mirror or the key that was given is none.
    Source(SourceError),
    /// dpkg put the program there, and would not know.
    Packaged(PathBuf),
    /// The program that is to be replaced cannot be found.
    Installed(PathBuf, io::Error),
    /// Another update has the lock.
    Locked(PathBuf),
    Fetch(FetchError),
    Release(UntrueRelease),
    Write(PathBuf, io::Error),
    /// The new program does not do what it should.
    Trial(TrialError),
    /// The new program was there, the relay did not come back with it, and the old one is there again.
    RolledBack {
        version: Version,
        reason: ServiceError,
        back: Result<(), ServiceError>,
    },
    /// And the old one could not be put back.
    Stuck {
        version: Version,
        reason: ServiceError,
        previous: PathBuf,
        error: io::Error,
    },
    /// It did not answer before, and does not with the new program, which stays.
    StillUnwell {
        version: Version,
        reason: ServiceError,
    },
    /// The machine is being shut down, and the relay with it.
    MachineEnds,
    /// It does not come back with the program that was there already, and which one it worked with is not known.
    Unwell {
        version: Version,
        reason: ServiceError,
    },
}

/// Why a mirror or a key cannot be used.
#[derive(Debug)]
pub(super) enum SourceError {
    Mirror(crate::config::url::UrlError),
    /// What was given for a directory is none.
    NoDirectory(PathBuf),
    /// A mirror without TLS, and no key.
    PlainHttp,
    Key(PathBuf, KeyError),
    /// What is kept for automatic updates is not understood.
    Kept(KeptError),
    Client(reqwest::Error),
    /// A directory that others can change, and no key.
    Trust(TrustError),
}

/// Why a file holds no public key.
#[derive(Debug)]
pub(super) enum KeyError {
    Unreadable(io::Error),
    NoKey(minisign_verify::Error),
}

/// Why a file did not come.
#[derive(Debug)]
pub(super) enum FetchError {
    Call {
        file: &'static str,
        host: String,
        /// The proxy on the way, without its password.
        through: Option<Authority>,
        source: reqwest::Error,
    },
    Status {
        file: &'static str,
        host: String,
        status: StatusCode,
    },
    /// Longer than such a file can be.
    TooLarge {
        file: &'static str,
    },
    /// It ended early.
    Short {
        file: &'static str,
        expected: u64,
        came: u64,
    },
    NotUtf8 {
        file: &'static str,
    },
    Read {
        file: PathBuf,
        source: io::Error,
    },
}

/// Why a release is not believed.
#[derive(Debug)]
pub(super) enum UntrueRelease {
    Version(semver::Error),
    Sums,
    NotListed(&'static str),
    Digest(&'static str),
    Signature(minisign_verify::Error),
}

/// Why a new program is not taken.
#[derive(Debug)]
pub(super) enum TrialError {
    Start(io::Error),
    /// It did not end.
    Hangs(&'static str),
    Fails {
        argument: &'static str,
        status: ExitStatus,
        told: String,
    },
    /// It is another version than the release says.
    Version {
        expected: Version,
        told: String,
    },
}

/// Why the service is not what it should be after a restart.
#[derive(Debug)]
pub(super) enum ServiceError {
    Start {
        command: String,
        source: io::Error,
    },
    Fails {
        command: String,
        status: ExitStatus,
    },
    /// The new program did not take over, and the process that runs noticed nothing.
    GoesOn {
        command: String,
        status: ExitStatus,
    },
    Hangs {
        command: String,
    },
    Unwell {
        waited: Duration,
        source: HealthError,
    },
}

impl UpdateError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Machine | Self::Fetch(_) => EXIT_UNAVAILABLE,
            Self::Source(_) | Self::Packaged(_) | Self::Installed(..) => EXIT_CONFIG,
            Self::Locked(_) | Self::MachineEnds => EXIT_TRY_AGAIN,
            Self::Release(_) | Self::Trial(_) => EXIT_DATA,
            Self::Write(..) => EXIT_CANNOT_CREATE,
            Self::RolledBack { .. } | Self::Stuck { .. } | Self::StillUnwell { .. } | Self::Unwell { .. } => {
                EXIT_INTERNAL
            }
        }
    }
}

impl FetchError {
    /// Whether the place may be well, and cannot be reached from here.
    fn is_of_the_way(&self) -> bool {
        match self {
            Self::Call { source, .. } => source.is_connect() || source.is_timeout(),
            Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Short { .. }
            | Self::NotUtf8 { .. }
            | Self::Read { .. } => false,
        }
    }
}

impl From<FetchError> for UpdateError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<UntrueRelease> for UpdateError {
    fn from(error: UntrueRelease) -> Self {
        Self::Release(error)
    }
}

impl From<SourceError> for UpdateError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<TrialError> for UpdateError {
    fn from(error: TrialError) -> Self {
        Self::Trial(error)
    }
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => {
                f.write_str("releases have no file for this kind of machine: build it from source")
            }
            Self::Source(error) => error.fmt(f),
            Self::Packaged(file) => write!(
                f,
                "{} belongs to the Debian package parley-relay: install the new .deb instead",
                file.display()
            ),
            Self::Installed(file, error) => write!(f, "{} cannot be used: {error}", file.display()),
            Self::Locked(directory) => {
                write!(f, "another update is at work in {}; try again when it has ended", directory.display())
            }
            Self::Fetch(error) => {
                write!(f, "{error}; nothing was changed")?;
                if error.is_of_the_way() {
                    f.write_str(
                        "\n--mirror or MIRROR_BASE_URL names another place, --proxy a proxy on the way",
                    )?;
                }
                Ok(())
            }
            Self::Release(error) => write!(f, "{error}; nothing was changed"),
            Self::Write(file, error) => {
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                let advice = if denied { "; run it as root" } else { "" };
                write!(f, "{} cannot be written: {error}{advice}; nothing was changed", file.display())
            }
            Self::Trial(error) => write!(f, "the new program is not taken: {error}; nothing was changed"),
            Self::RolledBack { version, reason, back } => {
                write!(f, "{version} does not work here: {reason}; the previous program is back")?;
                match back {
                    Ok(()) => f.write_str(", and answers"),
                    Err(error) => write!(f, ", but: {error}"),
                }
            }
            Self::Stuck { version, reason, previous, error } => write!(
                f,
                "{version} does not work here: {reason}; and the previous program cannot be put back: {error}; \
                 it is in {}",
                previous.display()
            ),
            Self::StillUnwell { version, reason } => write!(
                f,
                "{version} is installed, but the relay did not answer before and does not now: {reason}"
            ),
            Self::MachineEnds => f.write_str(
                "the machine is shut down: whether the relay works with the program that is on disk is left to the next \
                 update",
            ),
            Self::Unwell { version, reason } => {
                write!(
                    f,
                    "{version} is installed, but the relay does not come back with it: {reason}; it stays, as it is not \
                     known which program is the one before"
                )
            }
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory(path) => write!(
                f,
                "the mirror {} is no directory that is there; a URL begins with https://",
                path.display()
            ),
            Self::Mirror(error) => write!(f, "the mirror is neither a directory nor a URL: {error}"),
            Self::PlainHttp => f.write_str(
                "a mirror over http:// can be anyone: give --public-key FILE, or an https:// mirror, \
                 or --plain-http to trust it all the same",
            ),
            Self::Key(file, KeyError::Unreadable(error)) => {
                write!(f, "{} cannot be read: {error}", file.display())
            }
            Self::Key(file, KeyError::NoKey(error)) => {
                write!(f, "{} holds no minisign public key: {error}", file.display())
            }
            Self::Kept(error) => write!(f, "{error}"),
            Self::Trust(error) => write!(f, "the mirror is not trusted: {error}"),
            Self::Client(error) => write!(f, "no HTTP client: {}", Chain(error)),
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { file, host, through, source } => {
                write!(f, "{file} cannot be fetched from {host}")?;
                if let Some(proxy) = through {
                    write!(f, " through the proxy at {proxy}")?;
                }
                write!(f, ": {}", Chain(source))
            }
            Self::Status { file, host, status } => write!(f, "{host} answers {status} for {file}"),
            Self::TooLarge { file } => write!(f, "{file} is longer than such a file can be"),
            Self::Short { file, expected, came } => {
                write!(f, "{file} broke off after {came} of {expected} bytes")
            }
            Self::NotUtf8 { file } => write!(f, "{file} is no text"),
            Self::Read { file, source } => write!(f, "{} cannot be read: {source}", file.display()),
        }
    }
}

impl fmt::Display for UntrueRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(error) => write!(f, "version.txt holds no version: {error}"),
            Self::Sums => f.write_str("SHA256SUMS is no list of checksums"),
            Self::NotListed(file) => write!(f, "SHA256SUMS has no {file}"),
            Self::Digest(file) => write!(
                f,
                "{file} is not the file that SHA256SUMS tells of: it was damaged on the way, or the mirror is \
                 being filled; try again later, or another mirror"
            ),
            Self::Signature(error) => write!(f, "SHA256SUMS is not signed with the known key: {error}"),
        }
    }
}

impl fmt::Display for TrialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "it cannot be started: {error}"),
            Self::Hangs(argument) => write!(f, "its `{argument}` does not end"),
            Self::Fails { argument, status, told } => {
                write!(f, "its `{argument}` fails ({status})")?;
                if told.is_empty() { Ok(()) } else { write!(f, ":\n{told}\n") }
            }
            Self::Version { expected, told } => {
                write!(f, "it calls itself {told:?}, and should be {expected}")
            }
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { command, source } => write!(f, "`{command}` cannot be started: {source}"),
            Self::Fails { command, status } => write!(f, "`{command}` fails ({status})"),
            Self::GoesOn { command, status } => {
                write!(f, "`{command}` fails ({status}), and the process that runs goes on")
            }
            Self::Hangs { command } => write!(f, "`{command}` does not end"),
            Self::Unwell { waited, source } => {
                write!(f, "the relay is not well {} s after its restart: it {source}", waited.as_secs())
            }
        }
    }
}

impl Error for UpdateError {}
impl Error for SourceError {}
impl Error for FetchError {}
impl Error for UntrueRelease {}
impl Error for TrialError {}
impl Error for ServiceError {}
