//! `init`: writes a config file from flags, carries an older one over, or changes one.

mod draft;

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{EXIT_CONFIG, EXIT_INTERNAL, EXIT_USAGE, answer};
use crate::config::{self, ConfigError, Environment, Flags, Loaded, Warning};
use draft::Draft;

/// What `init` is to write, and where.
#[derive(clap::Args, Clone)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct InitArgs {
    /// The config file to write [default: standard output]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Write over FILE if it is there; what was there is kept as FILE.bak
    #[arg(long, requires = "file")]
    force: bool,

    /// Begin with this config file, the original relay's too: its rules and comments stay
    #[arg(long, value_name = "OLD")]
    from: Option<PathBuf>,

    /// Where certificates come from; off: plain HTTP, behind another proxy [default: auto]
    #[arg(long, value_name = "WORD", conflicts_with = "self_signed")]
    certificate: Option<CertificateChoice>,

    /// An address that the CA may write to
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,

    /// The CA: letsencrypt, zerossl, google, or the URL of its directory
    #[arg(long, value_name = "CA")]
    acme_directory: Option<String>,

    /// The way to the CA: a proxy's URL, or upstream for the one on the way to the backend
    #[arg(long, value_name = "URL|upstream")]
    acme_proxy: Option<String>,

    /// A program that puts TXT records into the DNS, for dns-01; "" for none
    #[arg(long, value_name = "PROGRAM")]
    dns_hook: Option<OsString>,

    #[command(flatten)]
    flags: Flags,
}

const ENVIRONMENT: &str = "\
Environment, for what other users could read on a command line; a flag wins:
  PARLEY_RELAY_URI_PREFIX      as --uri-prefix
  PARLEY_RELAY_UPSTREAM_PROXY  as --upstream-proxy
  PARLEY_RELAY_ACME_PROXY      as --acme-proxy";

/// `--certificate`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CertificateChoice {
    Auto,
    Acme,
    SelfSigned,
    Files,
    Off,
}

/// Why no file is written.
#[derive(Debug)]
enum InitError {
    /// The flags, the file to begin with or what came of both.
    Config(ConfigError),
    /// Neither a name to serve nor the wish for plain HTTP.
    NothingToServe,
    /// Certificate files without the flags that name them.
    NoFiles,
    /// The file is there.
    Exists(PathBuf),
    /// Not for TOML, which is UTF-8.
    NotUtf8(PathBuf),
    /// Nor is this variable's value.
    Variable(&'static str),
    /// The backend's config is there, with a prefix that nobody else says.
    Sova(PathBuf, io::Error),
    Read(PathBuf, io::Error),
    /// What the config loader has read, and the editor cannot.
    Edit(toml_edit::TomlError),
    Write(PathBuf, io::Error),
}

/// A file that has been made, and loads.
struct Made {
    text: String,
    warnings: Vec<Warning>,
    /// Nobody said which secret prefix there is, if any.
    without_prefix: bool,
}

impl InitArgs {
    /// Takes what no flag says from the environment, which only the user's own processes can read.
    /// Gives the flags that a variable stood in for, each with that.
    fn take_secrets(&mut self) -> Result<Vec<(&'static str, &'static str)>, InitError> {
        let mut taken = Vec::new();
        for (setting, flag, name) in [
            (&mut self.flags.uri_prefix, "--uri-prefix", "PARLEY_RELAY_URI_PREFIX"),
            (&mut self.flags.upstream_proxy, "--upstream-proxy", "PARLEY_RELAY_UPSTREAM_PROXY"),
            (&mut self.acme_proxy, "--acme-proxy", "PARLEY_RELAY_ACME_PROXY"),
        ] {
            if let (None, Some(value)) = (&setting, std::env::var_os(name)) {
                *setting = Some(value.into_string().map_err(|_| InitError::Variable(name))?);
                taken.push((flag, name));
            }
        }
        Ok(taken)
    }
}

/// Writes the file, or prints it.
pub(crate) fn run(mut arguments: InitArgs) -> ExitCode {
    let environment = Environment::of_process();
    let made = arguments
        .take_secrets()
        .and_then(|variables| make(&arguments, &environment).map_err(|error| error.of_variables(&variables)));
    let made = match made {
        Ok(made) => made,
        Err(error) => return refuse(error),
    };
    if made.without_prefix {
        let why = match &arguments.flags.backend {
            Some(_) => "with --backend no Sova config is asked".to_owned(),
            None => format!("no Sova config at {}", environment.sova.display()),
        };
        eprintln!("{why}: the secret prefix is empty; --uri-prefix gives one");
    }
    let Some(file) = &arguments.file else {
        return finish(&made.warnings, &made.text);
    };
    match write(file, &made.text, arguments.force) {
        Ok(written) => finish(&made.warnings, &written.report(file)),
        Err(error) => refuse(error),
    }
}

fn finish(warnings: &[Warning], report: &str) -> ExitCode {
    match super::warn(warnings) {
        Ok(()) => answer(report),
        Err(_) => ExitCode::from(EXIT_INTERNAL),
    }
}

/// Prints why nothing is written.
fn refuse(error: InitError) -> ExitCode {
    match error {
        InitError::Config(error) => super::refuse(&error),
        InitError::Write(..) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_INTERNAL)
        }
        InitError::NothingToServe => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        InitError::NoFiles
        | InitError::Exists(_)
        | InitError::NotUtf8(_)
        | InitError::Variable(_)
        | InitError::Sova(..)
        | InitError::Read(..)
        | InitError::Edit(_) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Makes the file's text, and loads it as the relay will.
fn make(arguments: &InitArgs, environment: &Environment) -> Result<Made, InitError> {
    let mut flags = arguments.flags.clone();
    let no_proxy = flags.upstream_proxy.take_if(|url| url == "off").is_some();
    let wanted = choice(arguments);
    // First without a file of our own, so that a fault is told by the flag's name.
    let Loaded { config, .. } =
        config::load(arguments.from.as_deref(), &flags, environment).map_err(InitError::Config)?;
    if wanted == Some(CertificateChoice::Files) && flags.cert.is_none() {
        return Err(InitError::NoFiles);
    }
    let mut without_prefix = false;
    let mut draft = match &arguments.from {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| InitError::Read(file.clone(), error))?;
            let mut draft = Draft::of(&text).map_err(InitError::Edit)?;
            draft.anchor(file)?;
            // Without the flag the file is taken at its word.
            if flags.sova.is_some() {
                draft.fill(&config);
            }
            draft
        }
        None => {
            if wanted.is_none() && !flags.ask_for_tls() {
                return Err(InitError::NothingToServe);
            }
            without_prefix = !prefix_is_known(&flags, environment)?;
            Draft::fresh(&config)?
        }
    };
    draft.apply_certificate(wanted, &flags);
    draft.apply_flags(&flags)?;
    if no_proxy {
        draft.set("upstream_proxy", "enabled", false);
        if draft.text("upstream_proxy", "url").is_some_and(|url| url.contains('@')) {
            // A password is not kept for nothing.
            draft.empty("upstream_proxy", "url");
        }
    }
    if flags.log.is_some() {
        draft.apply_log(&config.log);
    }
    if draft.is_https() {
        draft.set_path("tls", "storage", &flags.storage)?;
        draft.set_text("tls.acme", "email", &arguments.email);
        draft.set_text("tls.acme", "directory", &arguments.acme_directory);
        draft.set_text("tls.acme", "proxy", &arguments.acme_proxy);
        match &arguments.dns_hook {
            Some(none) if none.is_empty() => draft.empty("tls.acme.dns", "hook"),
            hook => draft.set_path("tls.acme.dns", "hook", &hook.as_ref().map(PathBuf::from))?,
        }
    }
    let text = draft.into_text();
    let warnings = load_text(&text, environment)?;
    Ok(Made { text, warnings, without_prefix })
}

/// Whether a flag, or a backend's config, says what the secret prefix of a new file is. A config that is there and
/// cannot be read is an error: without its prefix the backend would take no request.
fn prefix_is_known(flags: &Flags, environment: &Environment) -> Result<bool, InitError> {
    if flags.uri_prefix.is_some() || flags.sova.is_some() {
        return Ok(true);
    }
    if flags.backend.is_some() {
        return Ok(false);
    }
    match fs::File::open(&environment.sova) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(InitError::Sova(environment.sova.clone(), error)),
    }
}

/// The two ways to say where certificates come from.
fn choice(arguments: &InitArgs) -> Option<CertificateChoice> {
    let InitArgs { certificate, flags, .. } = arguments;
    if flags.self_signed {
        return Some(CertificateChoice::SelfSigned);
    }
    certificate.or(flags.cert.is_some().then_some(CertificateChoice::Files))
}

/// Loads `text` as a file, with nothing else that says something.
fn load_text(text: &str, environment: &Environment) -> Result<Vec<Warning>, InitError> {
    let loaded = config::load_text("the new config file", text, environment);
    let Loaded { config, mut warnings, .. } = loaded.map_err(InitError::Config)?;
    warnings.extend(super::warning_of_new_ca(&config));
    Ok(warnings)
}

/// What became of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Written {
    New,
    /// It was this already.
    Same,
    Replaced {
        backup: PathBuf,
    },
}

impl Written {
    fn report(&self, file: &Path) -> String {
        let file = file.display();
        match self {
            Self::New => format!("wrote {file}\n"),
            Self::Same => format!("{file} says this already\n"),
            Self::Replaced { backup } => format!("wrote {file}; what was there is {}\n", backup.display()),
        }
    }
}

/// Puts `text` in place of `file`: whole or not at all. The file keeps its owner and mode; a new one is its owner's
/// alone, for it may hold the secret prefix and a proxy's password.
fn write(file: &Path, text: &str, force: bool) -> Result<Written, InitError> {
    let failed = |error| InitError::Write(file.to_owned(), error);
    let there = match fs::read(file) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(InitError::Read(file.to_owned(), error)),
    };
    if there.as_deref() == Some(text.as_bytes()) {
        return Ok(Written::Same);
    }
    if there.is_some() && !force {
        return Err(InitError::Exists(file.to_owned()));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    if there.is_none() {
        new.as_file().sync_all().map_err(failed)?;
        // Not over a file that came in the meantime.
        new.persist_noclobber(file).map_err(|error| failed(error.error))?;
        return Ok(Written::New);
    }
    let old = fs::metadata(file).map_err(failed)?;
    new.as_file().set_permissions(old.permissions()).map_err(failed)?;
    if rustix::process::geteuid().is_root() {
        chown(new.path(), Some(old.uid()), Some(old.gid())).map_err(failed)?;
    }
    new.as_file().sync_all().map_err(failed)?;
    let mut backup = file.as_os_str().to_owned();
    backup.push(".bak");
    let backup = PathBuf::from(backup);
    fs::copy(file, &backup).map_err(|error| InitError::Write(backup.clone(), error))?;
    new.persist(file).map_err(|error| failed(error.error))?;
    Ok(Written::Replaced { backup })
}

impl InitError {
    /// The same, with a fault told by the variable's name that a flag's value came from.
    fn of_variables(self, variables: &[(&'static str, &'static str)]) -> Self {
        match self {
            Self::Config(error) => Self::Config(error.of_variables(variables)),
            Self::NothingToServe
            | Self::NoFiles
            | Self::Exists(_)
            | Self::NotUtf8(_)
            | Self::Variable(_)
            | Self::Sova(..)
            | Self::Read(..)
            | Self::Edit(_)
            | Self::Write(..) => self,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => f.write_str(&error.render(config::Style::Plain)),
            Self::NothingToServe => f.write_str(
                "nothing says what to serve: give --domain NAME, or --certificate off for plain HTTP behind \
                 another proxy; --help lists the rest",
            ),
            Self::NoFiles => f.write_str("--certificate files needs --cert FILE and --key FILE"),
            Self::Exists(file) => {
                write!(f, "{} is there already: --force writes over it, and keeps a copy", file.display())
            }
            Self::NotUtf8(path) => write!(f, "{} is not UTF-8, as a config file is", path.display()),
            Self::Variable(name) => write!(f, "{name} is not UTF-8, as a config file is"),
            Self::Sova(file, error) => {
                write!(f, "{} cannot be read: run with sudo, or give --uri-prefix ({error})", file.display())
            }
            Self::Read(file, error) => write!(f, "{} cannot be read: {error}", file.display()),
            Self::Edit(error) => write!(f, "the file cannot be changed: {}", error.message()),
            Self::Write(file, error) => write!(f, "{} cannot be written: {error}", file.display()),
        }
    }
}

impl std::error::Error for InitError {}

#[cfg(test)]
mod tests;
