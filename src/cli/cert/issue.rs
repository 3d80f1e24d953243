//! `cert issue`: orders certificates now, in this process, by way of the DNS.
//!
//! The other challenges are shown on the ports that the relay serves on: those certificates it orders itself.

use std::{fmt, io, path::PathBuf, process::ExitCode, sync::Arc};

use time::OffsetDateTime;
use tokio::io::{BufReader, stderr, stdin};

use super::{become_owner, refuse};
use crate::{
    acme::{
        self, AcmeError, Issuer, Stored,
        dns::{self, DnsSolver, Manual, Resolvers, Responder, responder::ResponderError},
    },
    cli::{ConfigArgs, EXIT_INTERNAL, answer, run::runtime},
    config::{AcmeConfig, CertificateSource, Environment, ServerName, Subject, Tls, acme::ChallengeKind},
    log,
    storage::{Storage, StorageError},
    tls::Predecessor,
};

/// For what `cert issue` gets certificates, and how.
#[derive(clap::Args)]
#[command(mut_arg("config", |config| config.help(crate::cli::CONFIG_HELP)))]
pub(super) struct IssueArgs {
    /// A domain or a wildcard, such as *.example.org
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Show the DNS record, and go on when it is in place
    #[arg(long)]
    dns_manual: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Who puts the record into the DNS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// The hook or the responder of the configuration.
    Configured,
    ByHand,
}

/// Why there is no certificate.
#[derive(Debug)]
enum IssueError {
    /// Certificates come from elsewhere.
    NoAcme,
    /// No public CA vouches for this name.
    Local(ServerName),
    /// DNS-01 shows no addresses (RFC 8738, section 7).
    Address(ServerName),
    /// There is no way to put a record into the DNS.
    NoSolver,
    Storage(StorageError),
    Responder(ResponderError),
    /// The responder's socket broke.
    Broken(io::Error),
    Order(Subject, AcmeError),
    /// We cannot act as the owner of the storage directory.
    Owner(io::Error),
}

/// Orders a certificate for each of the names.
pub(super) fn run(arguments: IssueArgs) -> ExitCode {
    let mut config = arguments.config.or_installed(&Environment::of_process());
    config.flags.domain = arguments.names;
    let way = if arguments.dns_manual { Way::ByHand } else { Way::Configured };
    let loaded = match config.load() {
        Ok(loaded) => loaded,
        Err(error) => return crate::cli::refuse(&error),
    };
    let (acme, storage) = match loaded.config.tls.ok_or(IssueError::NoAcme).and_then(wanted) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(error),
    };
    log::start(&loaded.config.log);
    let prepared = solver(&acme, way).and_then(|solver| {
        // Bound before: the owner may not have the port. And before the runtime's threads are there.
        become_owner(&storage).map_err(IssueError::Owner)?;
        Ok((solver, Storage::open(&storage).map_err(IssueError::Storage)?))
    });
    let ((solver, responder), storage) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return refuse(error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let issued = runtime.block_on(issue(acme, storage, solver, responder));
    // A read of the terminal cannot be called off: it must not hold up the end.
    runtime.shutdown_background();
    match issued {
        Ok(lines) => answer(&lines),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_INTERNAL)
        }
    }
}

/// What is to be ordered, and where it is stored, if it can be had by way of the DNS.
fn wanted(tls: Tls) -> Result<(AcmeConfig, PathBuf), IssueError> {
    let CertificateSource::Acme(mut acme) = tls.certificates else {
        let local = tls.names.into_iter().find(ServerName::is_local);
        return Err(match (tls.certificates, local) {
            (CertificateSource::LocalCa, Some(local)) => IssueError::Local(local),
            (_, _) => IssueError::NoAcme,
        });
    };
    if let Some(local) = acme.local.pop() {
        return Err(IssueError::Local(local));
    }
    for subject in &acme.subjects {
        if let Subject::Name(name @ ServerName::Ip(_)) = subject {
            return Err(IssueError::Address(name.clone()));
        }
    }
    acme.challenges = vec![ChallengeKind::Dns01];
    Ok((*acme, tls.storage))
}

/// What puts the records into the DNS, and the server that has to run for it.
fn solver(acme: &AcmeConfig, way: Way) -> Result<(DnsSolver, Option<Responder>), IssueError> {
    match way {
        Way::ByHand => {
            let terminal = Manual::new(BufReader::new(stdin()), stderr(), Resolvers::of_machine());
            Ok((DnsSolver::Manual(terminal), None))
        }
        Way::Configured => {
            let opened =
                dns::open(&acme.dns, &acme.subjects, Predecessor::None).map_err(IssueError::Responder)?;
            opened.ok_or(IssueError::NoSolver)
        }
    }
}

/// Gives a line for each certificate. They are ordered one after the other: a person adds one record at a time.
async fn issue(
    acme: AcmeConfig,
    storage: Storage,
    solver: DnsSolver,
    responder: Option<Responder>,
) -> Result<String, IssueError> {
    let issuer = Issuer::new(storage.clone(), &acme, Arc::default(), Some(Arc::new(solver)));
    let orders = async {
        let mut lines = String::new();
        for subject in &acme.subjects {
            let mut stored = Stored::load(&storage, subject.clone()).map_err(IssueError::Storage)?;
            let ordered = acme::renew(&issuer, &mut stored, OffsetDateTime::now_utc()).await;
            ordered.map_err(|error| IssueError::Order(subject.clone(), error))?;
            let expires = stored.certificate.map(|certificate| certificate.not_after.date().to_string());
            lines += &format!("{subject}: issued, expires {}\n", expires.unwrap_or_default());
        }
        Ok(lines)
    };
    let Some(responder) = responder else {
        return orders.await;
    };
    tokio::select! {
        issued = orders => issued,
        ended = responder.run() => {
            let error = ended.err().unwrap_or_else(|| io::ErrorKind::NotConnected.into());
            Err(IssueError::Broken(error))
        }
    }
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAcme => {
                f.write_str("the configuration takes certificates from elsewhere: see `mode` in [tls]")
            }
            Self::Local(name) => write!(f, "no public CA vouches for {name}: the relay's local CA does"),
            Self::Address(name) => write!(
                f,
                "{name} is no name in the DNS: the relay gets its certificate itself, with --domain {name}"
            ),
            Self::NoSolver => f.write_str(
                "nothing puts records into the DNS: use --dns-manual, or set `hook` or `listen` in \
                 [tls.acme.dns]. A relay that runs with --domain NAME needs none of that",
            ),
            Self::Storage(error) => error.fmt(f),
            Self::Responder(error) => write!(
                f,
                "{error}. Where that is a relay that runs, it orders for its own names: see `cert renew`"
            ),
            Self::Broken(error) => write!(f, "the DNS responder broke: {error}"),
            Self::Order(subject, error) => write!(f, "{subject}: {error}"),
            Self::Owner(error) => write!(f, "cannot act as the owner of the storage directory: {error}"),
        }
    }
}

impl std::error::Error for IssueError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::cert::CertArgs, config::Flags};
    use clap::Parser;

    /// What is wanted for these names, with nothing but defaults around them.
    fn wanted_for(names: &[&str]) -> Result<(AcmeConfig, PathBuf), IssueError> {
        let storage = tempfile::tempdir().unwrap();
        let config = ConfigArgs {
            config: None,
            flags: Flags {
                domain: names.iter().map(|name| (*name).to_owned()).collect(),
                storage: Some(storage.path().to_owned()),
                backend: Some("http://127.0.0.1:1".to_owned()),
                ..Flags::default()
            },
        };
        let Ok(loaded) = config.load() else { panic!("{names:?} are refused") };
        wanted(loaded.config.tls.unwrap())
    }

    #[test]
    fn wildcards_and_domains_are_ordered_by_way_of_the_dns_alone() {
        let (acme, _) = wanted_for(&["*.example.org", "example.org"]).unwrap();
        assert_eq!(acme.challenges, [ChallengeKind::Dns01]);
        assert_eq!(acme.subjects.len(), 2);
    }

    #[test]
    fn names_that_no_record_vouches_for_are_refused() {
        assert!(matches!(wanted_for(&["chat.lan"]), Err(IssueError::Local(_))));
        assert!(matches!(wanted_for(&["example.org", "localhost"]), Err(IssueError::Local(_))));
        assert!(matches!(wanted_for(&["192.0.2.7"]), Err(IssueError::Local(_))));
    }

    #[test]
    fn without_any_way_into_the_dns_it_says_what_to_do() {
        let (acme, _) = wanted_for(&["example.org"]).unwrap();
        let error = solver(&acme, Way::Configured).unwrap_err();
        assert!(error.to_string().contains("--dns-manual"), "{error}");
        assert!(matches!(solver(&acme, Way::ByHand), Ok((DnsSolver::Manual(_), None))));
    }

    #[test]
    fn the_command_line_takes_names_and_the_flags_of_the_configuration() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            cert: CertArgs,
        }
        let parse =
            |line: &str| Line::try_parse_from(line.split(' ')).map(|_| ()).map_err(|error| error.to_string());
        for line in [
            "cert issue *.example.org example.org --dns-manual --config c.toml --storage s",
            "cert list --json --storage s",
            "cert renew *.example.org --config c.toml",
            "cert import /etc/letsencrypt/live/a.example --name a.example --name *.a.example",
        ] {
            assert_eq!(parse(line), Ok(()), "{line}");
        }
        assert!(parse("cert issue").unwrap_err().contains("NAME"));
        assert!(parse("cert renew a..b").unwrap_err().contains("a..b"));
        assert!(parse("cert").is_err());
    }
}
