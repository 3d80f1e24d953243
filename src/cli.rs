//! The command line: what is asked for, and how a refusal is told.

pub(crate) mod ca;
pub(crate) mod cert;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod unit;
pub(crate) mod update;
pub(crate) mod upgrade;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use rustix::process::geteuid;
use time::OffsetDateTime;

use crate::{
    config::{self, Config, ConfigError, Environment, Flags, Loaded, Style, Warning},
    storage::Storage,
    tls::local_ca,
};

/// The command line was wrong (sysexits.h: EX_USAGE).
pub(crate) const EXIT_USAGE: u8 = 64;
/// What was asked is not there (EX_UNAVAILABLE).
pub(crate) const EXIT_UNAVAILABLE: u8 = 69;
/// Something inside went wrong (EX_SOFTWARE).
pub(crate) const EXIT_INTERNAL: u8 = 70;
/// Nothing is changed, and another try may work: an upgrade is refused, another update runs (EX_TEMPFAIL).
pub(crate) const EXIT_TRY_AGAIN: u8 = 75;
/// The configuration is wrong (EX_CONFIG).
pub(crate) const EXIT_CONFIG: u8 = 78;

/// What the command line asks for.
pub(crate) struct Cli {
    pub(crate) command: Command,
}

/// One of the things that the program does.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve; the default
    #[command(hide = true)]
    Run(ConfigArgs),
    /// Tell every fault of the configuration, with line and reason
    Check(check::CheckArgs),
    /// Tell which rule decides a request, why the others do not, and what happens to it
    Explain(explain::ExplainArgs),
    /// Look whether all is well around the relay: CAs, clock, names, ports, backend, storage
    Doctor(doctor::DoctorArgs),
    /// Show the relay at work, with a little backend that is built in
    Demo(demo::DemoArgs),
    /// Show the local CA that devices have to trust
    Ca(ca::CaArgs),
    /// List certificates, and renew, issue or import them
    Cert(cert::CertArgs),
    /// Ask the relay that runs how it is: for people, as JSON, or as metrics
    Status(status::StatusArgs),
    /// Ask a running relay whether it answers; exit code 0 or 1
    Health(health::HealthArgs),
    /// Replace this program by the newest release, and go back if that does not work
    Update(update::UpdateArgs),
    /// Write the man pages or the shell completions, for packages
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
    /// Write a config file from flags, or carry one over
    Init(Box<init::InitArgs>),
    /// Print a systemd unit
    Unit(unit::UnitArgs),
    /// Let the binary that is on disk now take over from the relay that runs
    Upgrade(upgrade::UpgradeArgs),
}

/// What `--config` is for all who need not be told.
const CONFIG_HELP: &str = "The relay's config file [default: /etc/parley-relay/config.toml, if there]";

/// Where the configuration comes from.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct ConfigArgs {
    /// The config file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// The command line as clap reads it: a command, or the flags of `run` without its name.
#[derive(Parser)]
#[command(
    name = "parley-relay",
    version,
    about = "The TLS edge of a Parley Chat server",
    args_conflicts_with_subcommands = true,
    after_help = EXAMPLES
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: ConfigArgs,
}

const EXAMPLES: &str = "\
Examples:
  parley-relay --domain chat.example.org
  parley-relay --domain 192.168.1.20
  parley-relay --config /etc/parley-relay/config.toml
  parley-relay demo

Signals:
  SIGHUP   read the configuration anew; a broken one is refused
  SIGTERM  let what is open end, then exit; again exits at once
  SIGUSR1  write a status into the log
  SIGUSR2  let the binary that is on disk now take over";

impl Cli {
    /// Reads the process's command line. `Err`: help, the version or a usage error has been printed.
    pub(crate) fn parse_args() -> Result<Self, ExitCode> {
        Self::parse(std::env::args_os()).map_err(|error| {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(EXIT_INTERNAL),
            }
        })
    }

    fn parse(
        arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    ) -> clap::error::Result<Self> {
        let arguments = Arguments::try_parse_from(arguments)?;
        let command = arguments.command.unwrap_or(Command::Run(arguments.run));
        if let Command::Run(run) = &command
            && run.config.is_none()
            && !run.flags.ask_for_tls()
        {
            let installed = Environment::of_process().installed_config().map_or_else(String::new, |file| {
                let file = file.display();
                format!("\nthere is {file}: `parley-relay --config {file}` serves it, and so does its unit, `systemctl start parley-relay`")
            });
            let text =
                format!("nothing says what to serve: give --domain or --config{installed}\n\n{EXAMPLES}\n");
            return Err(clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, text));
        }
        Ok(Self { command })
    }
}

impl ConfigArgs {
    /// The same; of the relay that is installed, where neither a file nor a flag says which is meant.
    pub(crate) fn or_installed(mut self, environment: &Environment) -> Self {
        if self.config.is_none() && !self.flags.mean_something() {
            self.config = environment.installed_config();
        }
        self
    }

    /// The same; `None` where nothing says which relay is meant, and none is installed.
    pub(crate) fn if_any(self, environment: &Environment) -> Option<Self> {
        let meant = self.or_installed(environment);
        (meant.config.is_some() || meant.flags.mean_something()).then_some(meant)
    }

    /// The configuration that the file, the flags and the process's surroundings make.
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        config::load(self.config.as_deref(), &self.flags, &Environment::of_process())
    }
}

/// Prints every fault to standard error, and to whom a file is closed how it is read.
pub(crate) fn refuse(error: &ConfigError) -> ExitCode {
    let code = refuse_to_run(error);
    if error.is_denied() && !geteuid().is_root() {
        eprintln!("this user may not read it: run it with sudo");
    }
    code
}

/// Prints every fault to standard error. The relay itself is not to become root for what its user may not read.
pub(crate) fn refuse_to_run(error: &ConfigError) -> ExitCode {
    match io::stderr().write_all(error.render(stderr_style()).as_bytes()) {
        Ok(()) => ExitCode::from(EXIT_CONFIG),
        Err(_) => ExitCode::from(EXIT_INTERNAL),
    }
}

/// Prints what is hardly meant to standard error.
pub(crate) fn warn(warnings: &[Warning]) -> io::Result<()> {
    let mut stderr = io::stderr();
    warnings.iter().try_for_each(|warning| stderr.write_all(warning.render(stderr_style()).as_bytes()))
}

/// Tells of a local CA that the relay will replace when it starts with this configuration.
fn warning_of_new_ca(config: &Config) -> Option<Warning> {
    let tls = config.tls.as_ref()?;
    let replaced =
        local_ca::replaced(&Storage::at(&tls.storage), &tls.local_names()?, OffsetDateTime::now_utc())?;
    Some(Warning::new(format!("{replaced}; {}", local_ca::TRUST_ANEW), None))
}

/// Prints an answer to standard output; unlike `println!` it does not panic when nobody reads it.
fn answer(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_INTERNAL),
    }
}

/// Colours for a terminal whose user does not mind them (no-color.org).
fn stderr_style() -> Style {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stderr().is_terminal() && !unwanted { Style::Colours } else { Style::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::parse(line.split(' ')).map(|cli| cli.command)
    }

    fn refused(line: &str) -> String {
        match parse(line) {
            Ok(_) => panic!("{line} is accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_runs() {
        let Ok(Command::Run(run)) = parse("parley-relay --domain a.example --domain ::1 --config c.toml")
        else {
            panic!("another command");
        };
        assert_eq!(run.flags.domain, ["a.example", "::1"]);
        assert_eq!(run.config, Some("c.toml".into()));
        assert!(matches!(parse("parley-relay run --config c.toml"), Ok(Command::Run(_))));
    }

    #[test]
    fn with_nothing_to_serve_it_says_what_to_type() {
        for line in ["parley-relay", "parley-relay --backend http://h", "parley-relay run"] {
            assert!(refused(line).contains("parley-relay --domain chat.example.org"), "{line}");
        }
    }

    #[test]
    fn certificate_and_key_require_each_other() {
        assert!(refused("parley-relay --cert c.pem").contains("--key"));
        assert!(refused("parley-relay --domain a --key k.pem").contains("--cert"));
        assert!(refused("parley-relay --self-signed --cert c.pem --key k.pem").contains("--self-signed"));
        assert!(parse("parley-relay --cert c.pem --key k.pem").is_ok());
    }

    #[test]
    fn the_demo_has_defaults() {
        let Ok(Command::Demo(demo)) = parse("parley-relay demo") else {
            panic!("another command");
        };
        assert_eq!((demo.port, demo.host.to_string().as_str()), (8443, "127.0.0.1"));
        assert!(parse("parley-relay demo --port 0 --host ::1").is_ok());
    }

    #[test]
    fn the_installed_config_is_meant_where_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let installed = directory.path().join("config.toml");
        let environment = Environment { installed: installed.clone(), ..Environment::of_process() };
        let meant = |line: &str| {
            let Ok(Command::Explain(arguments)) = parse(&format!("parley-relay explain GET / {line}")) else {
                panic!("{line}");
            };
            arguments.config.or_installed(&environment).config
        };
        assert_eq!(meant("--log debug"), None);
        std::fs::write(&installed, "version = 1\n").unwrap();
        assert_eq!(meant("--log debug"), Some(installed));
        assert_eq!(meant("--config c.toml"), Some("c.toml".into()));
        for flag in ["--domain a", "--backend http://h", "--sova s.toml", "--storage s", "--self-signed"] {
            assert_eq!(meant(flag), None, "{flag}");
        }
    }

    #[test]
    fn commands_take_the_flags_of_the_configuration() {
        assert!(matches!(
            parse("parley-relay explain --config c.toml --backend http://h GET /"),
            Ok(Command::Explain(_))
        ));
        assert!(matches!(parse("parley-relay check c.toml"), Ok(Command::Check(_))));
        assert!(matches!(parse("parley-relay ca --storage s"), Ok(Command::Ca(_))));
        assert!(parse("parley-relay check").is_ok());
    }
}
