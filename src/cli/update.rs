//! `update`: the newest release in the place of this program, or everything as it was.
//!
//! Nothing is replaced before all of it is checked: the signature, the checksums, that the new program runs and
//! that it takes the configuration. When the relay does not come back with it, the old program does.

/// Says something to whoever runs this. That nobody reads it any more, as on a terminal that is gone, is no reason to
/// leave things half-way, as the end that `eprintln` then makes would.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod error;
mod fetch;
mod kept;
mod manifest;
mod mirror;
mod program;
mod release;
mod service;
mod switch;
mod trust;
mod units;

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use minisign_verify::PublicKey;
use semver::Version;
use tokio::runtime;

use self::{
    error::{KeyError, SourceError, UpdateError},
    kept::Kept,
    mirror::{Mirror, PlainHttp},
    program::Program,
    service::{Restarted, Service},
    switch::{Finished, Left},
};
use super::{ConfigArgs, EXIT_INTERNAL, answer, health::Target};
use crate::{
    config::{Config, Environment, Flags, ProxyUrl, duration},
    storage,
};

/// Where the newest release is.
const RELEASES: &str = "https://github.com/Parley-Chat/relay/releases/latest/download";
/// The variable that the installer knows too.
const MIRROR_VARIABLE: &str = "MIRROR_BASE_URL";
const KEY: &str = "/etc/parley-relay/update.pub";
/// The key that whoever built this program put in, in minisign's base64.
const BUILT_IN_KEY: Option<&str> = option_env!("PARLEY_RELAY_UPDATE_KEY");
const WELL_WITHIN: Duration = Duration::from_secs(60);
/// `--check` found a newer release.
const EXIT_NEWER: u8 = 1;

/// How `update` goes about it.
#[derive(clap::Args)]
pub(crate) struct UpdateArgs {
    /// Only tell whether there is a newer release: exit code 1 if there is, 0 if not
    #[arg(long)]
    check: bool,

    /// Where releases are: a URL, or a directory, with relay-linux-x64 or relay-linux-arm64, SHA256SUMS, version.txt,
    /// and SHA256SUMS.minisig where there is a public key [default: $MIRROR_BASE_URL, or for the installed program what
    /// /etc/parley-relay/update.env says, with its flags, or GitHub]
    #[arg(long, value_name = "URL|DIR")]
    mirror: Option<String>,

    /// The minisign public key that releases are signed with: later updates then ask for it too, and come from the
    /// mirror that was given with it [default: /etc/parley-relay/update.pub, if there]
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,

    /// Trust an http:// mirror without a signature
    #[arg(long)]
    plain_http: bool,

    /// The proxy to download through [default: the configuration's upstream proxy]
    #[arg(long, value_name = "URL")]
    proxy: Option<ProxyUrl>,

    #[arg(long, value_name = "FILE", help = super::CONFIG_HELP)]
    config: Option<PathBuf>,

    /// The program to replace [default: this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// What makes the relay run the new program, for a shell [default: parley-relay upgrade, if its unit is active]
    #[arg(long, value_name = "COMMAND")]
    restart_with: Option<String>,

    /// How long the relay may take to answer after its restart [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    well_within: Option<Duration>,

    /// Take the mirror's release though it is not newer
    #[arg(long)]
    any_version: bool,

    /// Whether the mirror was named here, and not once and for all.
    #[arg(skip)]
    names_mirror: bool,
}

/// How an update ended that met no error.
enum Outcome {
    Current { version: Version, offered: Version, left: Option<Left> },
    Finished { version: Version, offered: Version, finished: Finished },
    Newer { installed: Option<Version>, offered: Version },
    Updated { installed: Option<Version>, offered: Version, restarted: Restarted, previous: PathBuf },
}

/// Updates, and says in a line or two what came of it.
pub(crate) fn run(arguments: UpdateArgs) -> ExitCode {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        eprintln!("error: the system lets no runtime be started");
        return ExitCode::from(EXIT_INTERNAL);
    };
    let arguments = match completed(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let (config_file, config) = match configuration(arguments.config.clone()) {
        Ok(found) => found,
        Err(code) => return code,
    };
    match runtime.block_on(update(arguments, config_file.as_deref(), config)) {
        Ok(outcome) => {
            let told = answer(&outcome.describe());
            if matches!(outcome, Outcome::Newer { .. }) { ExitCode::from(EXIT_NEWER) } else { told }
        }
        Err(error) => {
            say!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The arguments with the mirror that they do not name: the variable's, or of the installed program that of automatic
/// updates, with their flags.
fn completed(mut arguments: UpdateArgs) -> Result<UpdateArgs, UpdateError> {
    let variable = || std::env::var(MIRROR_VARIABLE).ok().filter(|value| !value.is_empty());
    arguments.names_mirror = arguments.mirror.is_some();
    arguments.mirror = arguments.mirror.or_else(variable);
    if arguments.mirror.is_some() || !Program::new(arguments.binary.as_deref())?.is_installed() {
        return Ok(arguments);
    }
    let completed = Kept::read().and_then(|kept| kept.complete(arguments));
    Ok(completed.map_err(SourceError::Kept)?)
}

/// The configuration that the relay runs with, if there is a file. `Err`: its faults have been printed.
fn configuration(file: Option<PathBuf>) -> Result<(Option<PathBuf>, Option<Config>), ExitCode> {
    let Some(file) = file.or_else(|| Environment::of_process().installed_config()) else {
        return Ok((None, None));
    };
    let arguments = ConfigArgs { config: Some(file.clone()), flags: Flags::default() };
    let loaded = arguments.load().map_err(|error| super::refuse(&error))?;
    Ok((Some(file), Some(loaded.config)))
}

async fn update(
    arguments: UpdateArgs,
    config_file: Option<&Path>,
    config: Option<Config>,
) -> Result<Outcome, UpdateError> {
    let file = release::BINARY.ok_or(UpdateError::Machine)?;
    let program = Program::new(arguments.binary.as_deref())?;
    let given = arguments.public_key.as_deref();
    let given = given.map(|file| read_key(file).map(|text| (file, text))).transpose()?;
    let key = match &given {
        Some((file, text)) => Some(decode_key(file, text)?),
        None => machine_key()?,
    };
    let mirror = mirror(&arguments, config.as_ref(), key.as_ref())?;
    let _lock = if arguments.check {
        None
    } else {
        program.refuse_packaged().await?;
        Some(program.lock()?)
    };

    let offer = mirror.offer(key.as_ref()).await?;
    if let Some((file, text)) = &given
        && !arguments.check
        && program.is_installed()
    {
        keep(file, text, &arguments);
    }
    let installed = program.version().await;
    let offered = offer.version.clone();
    if let Some(installed) = &installed
        && *installed >= offered
        && !arguments.any_version
    {
        let version = installed.clone();
        let service = service(&arguments, &program, config_file, config.as_ref()).await;
        return Ok(if arguments.check {
            Outcome::Current { version, offered, left: Left::find(&program, service.process().await) }
        } else {
            match switch::undisturbed(switch::finish(&program, &service, &version)).await? {
                Some(finished) => Outcome::Finished { version, offered, finished },
                None => Outcome::Current { version, offered, left: None },
            }
        });
    }
    if arguments.check {
        return Ok(Outcome::Newer { installed, offered });
    }

    let (staged, mut out) = program.stage()?;
    mirror.download(file, &offer, (staged.path(), &mut out)).await?;
    program.finish(&staged, out)?;
    staged.try_out(&offered, config_file).await?;

    let service = service(&arguments, &program, config_file, config.as_ref()).await;
    let switched = switch::to_new(&program, staged, &service, &offered);
    let restarted = switch::undisturbed(switched).await?;
    Ok(Outcome::Updated { installed, offered, restarted, previous: program.previous() })
}

/// What runs the program, and where that answers.
async fn service(
    arguments: &UpdateArgs,
    program: &Program,
    config_file: Option<&Path>,
    config: Option<&Config>,
) -> Service {
    let target = config.and_then(|config| Target::of_config(config, false).ok());
    let runs = (program.path(), config_file);
    let well_within = arguments.well_within.unwrap_or(WELL_WITHIN);
    Service::find(arguments.restart_with.clone(), runs, target, well_within).await
}

fn mirror(
    arguments: &UpdateArgs,
    config: Option<&Config>,
    key: Option<&PublicKey>,
) -> Result<Mirror, SourceError> {
    let place = arguments.mirror.as_deref().unwrap_or(RELEASES);
    let proxy = arguments.proxy.as_ref().or_else(|| config.and_then(|config| config.upstream_proxy.as_ref()));
    let mirror = Mirror::new(place, proxy, key, arguments.plain_http())?;
    if !arguments.names_mirror && key.is_none() {
        mirror.check_trust()?;
    }
    Ok(mirror)
}

/// The machine's key, or the one that was built in.
fn machine_key() -> Result<Option<PublicKey>, SourceError> {
    let file = Path::new(KEY);
    if file.exists() {
        return decode_key(file, &read_key(file)?).map(Some);
    }
    let built_in = BUILT_IN_KEY.map(PublicKey::from_base64).transpose();
    built_in.map_err(|error| SourceError::Key("the built-in key".into(), KeyError::NoKey(error)))
}

fn read_key(file: &Path) -> Result<String, SourceError> {
    fs::read_to_string(file).map_err(|error| SourceError::Key(file.to_owned(), KeyError::Unreadable(error)))
}

fn decode_key(file: &Path, text: &str) -> Result<PublicKey, SourceError> {
    // minisign writes a comment before it; install instructions often give the key alone.
    PublicKey::decode(text)
        .or_else(|_| PublicKey::from_base64(text.trim()))
        .map_err(|error| SourceError::Key(file.to_owned(), KeyError::NoKey(error)))
}

/// Puts a key, which what the mirror offers was just checked with, where the timer's updates look for one: they are
/// not told of the file, which may go. The mirror that was given goes along: it is the one that has what the key signed.
fn keep(file: &Path, text: &str, arguments: &UpdateArgs) {
    let file = file.display();
    let mirror = arguments.mirror.as_deref();
    let before = match mirror.map(|mirror| kept::keep(mirror, arguments.plain_http())).transpose() {
        Ok(before) => before.flatten(),
        Err(error) => {
            eprintln!("neither {file} nor the mirror is kept for later updates: {error}");
            return;
        }
    };
    if !fs::read_to_string(KEY).is_ok_and(|kept| kept == text) {
        if let Err(error) = storage::replace(Path::new(KEY), 0o644, text.as_bytes()) {
            eprintln!("{file} is not kept for later updates, nor is a mirror: {error}; copy it to {KEY}");
            if let Some(Err(error)) = before.map(kept::Before::put_back) {
                eprintln!("the mirror is kept all the same: {error}");
            }
            return;
        }
        eprintln!("{file} is kept as {KEY}: later updates are checked with it");
    }
    if let Some(mirror) = mirror.filter(|_| before.is_some()) {
        eprintln!("the mirror {mirror} is kept in {}: later updates come from there", kept::FILE);
    }
}

impl UpdateArgs {
    const fn plain_http(&self) -> PlainHttp {
        if self.plain_http { PlainHttp::Allow } else { PlainHttp::Refuse }
    }
}

impl Outcome {
    fn describe(&self) -> String {
        let was = |installed: &Option<Version>| match installed {
            Some(version) => version.to_string(),
            None => "a program that does not run".to_owned(),
        };
        // What a mirror has that was not filled for long is not the newest that there is.
        let newest = |version: &Version, offered: &Version| match offered.cmp_precedence(version) {
            Ordering::Less => format!("{version} is installed; the mirror has {offered}, which is older"),
            Ordering::Equal | Ordering::Greater => format!("{version} is the newest release"),
        };
        match self {
            Self::Current { version, offered, left: None } => newest(version, offered) + "\n",
            Self::Current { version, offered, left: Some(left) } => {
                let newest = newest(version, offered);
                format!("{newest}, but {left}: an update without --check sees to that\n")
            }
            Self::Finished { version, offered, finished } => {
                format!("{}, but {}\n", newest(version, offered), finished.describe())
            }
            Self::Newer { installed, offered } => {
                format!("{offered} can be had; {} is installed\n", was(installed))
            }
            Self::Updated { installed, offered, restarted, previous } => {
                let then = match restarted {
                    Restarted::Well => "the relay runs it and answers",
                    Restarted::Unasked => {
                        "the relay runs it; --config FILE would say where to ask whether it answers"
                    }
                    Restarted::No => "no systemd unit parley-relay is active: restart what runs the relay",
                };
                let was = was(installed);
                format!("{was} is replaced by {offered}; {then}\nthe one before is {}\n", previous.display())
            }
        }
    }
}
