//! `cert`: which certificates there are, and what a person can do about them.

mod import;
mod issue;
pub(crate) mod list;
mod renew;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{ConfigArgs, EXIT_CONFIG};
use crate::config::{CertificateSource, Environment, Flags, Subject};

/// What `cert` is to do.
#[derive(clap::Args)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Subcommand)]
enum CertCommand {
    /// Show every certificate: issuer, expiry, next renewal, last error
    List(list::ListArgs),
    /// Have a certificate renewed now, though it is not due
    Renew(renew::RenewArgs),
    /// Get certificates now, without the relay; --dns-manual asks for the DNS record by hand
    Issue(Box<issue::IssueArgs>),
    /// Take over a certificate, such as /etc/letsencrypt/live/NAME
    Import(import::ImportArgs),
}

/// Where the certificates are kept.
#[derive(clap::Args, Debug, Default)]
pub(super) struct StorageArgs {
    #[arg(long, value_name = "FILE", help = super::CONFIG_HELP)]
    pub(super) config: Option<PathBuf>,

    /// Where keys and certificates are kept
    #[arg(long, value_name = "DIR")]
    pub(super) storage: Option<PathBuf>,
}

/// A storage directory, and whose.
struct StoragePlace {
    directory: PathBuf,
    /// `None`: no config was read.
    served: Option<Served>,
}

/// What a config says is served.
struct Served {
    file: PathBuf,
    subjects: Vec<Subject>,
}

/// Does what the command line says.
pub(crate) fn run(arguments: CertArgs) -> ExitCode {
    match arguments.command {
        CertCommand::List(arguments) => list::run(&arguments),
        CertCommand::Renew(arguments) => renew::run(&arguments),
        CertCommand::Issue(arguments) => issue::run(*arguments),
        CertCommand::Import(arguments) => import::run(&arguments),
    }
}

impl StorageArgs {
    /// The directory that the flag, the file or the surroundings name. `Err`: the reason has been printed.
    pub(super) fn directory(&self, environment: &Environment) -> Result<PathBuf, ExitCode> {
        self.place(environment).map(|place| place.directory)
    }

    /// The same, with what is served from it.
    fn place(&self, environment: &Environment) -> Result<StoragePlace, ExitCode> {
        if let Some(directory) = &self.storage {
            return Ok(StoragePlace { directory: directory.clone(), served: None });
        }
        let Some(file) = self.config.clone().or_else(|| environment.installed_config()) else {
            return Ok(StoragePlace { directory: environment.storage(), served: None });
        };
        let arguments = ConfigArgs { config: Some(file.clone()), flags: Flags::default() };
        let loaded = arguments.load().map_err(|error| super::refuse(&error))?;
        let tls = loaded.config.tls.ok_or_else(|| {
            refuse(format_args!("{} has no [tls]: there are no certificates", file.display()))
        })?;
        let mut subjects: Vec<_> = tls.names.into_iter().map(Subject::Name).collect();
        if let CertificateSource::Acme(acme) = tls.certificates {
            // Wildcards too, which are no names of the relay.
            let more = acme.subjects.into_iter().filter(|subject| subject.as_name().is_none());
            subjects.extend(more);
        }
        Ok(StoragePlace { directory: tls.storage, served: Some(Served { file, subjects }) })
    }
}

/// Prints why nothing is done.
fn refuse(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(EXIT_CONFIG)
}

/// Makes this process, which has one thread yet, the owner of the storage directory.
///
/// Root would leave keys there that the relay's own user cannot read. SECURITY: and it would follow links that
/// this user may have put there.
pub(crate) fn become_owner(storage: &Path) -> io::Result<()> {
    let owner = match fs::metadata(storage) {
        Ok(found) => found,
        // Made by whoever this is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    // The user last: nobody else may change the groups.
    set_thread_groups(&[])?;
    set_thread_gid(Gid::from_raw(owner.gid()))?;
    set_thread_uid(Uid::from_raw(owner.uid()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use std::{os::unix::fs::chown, thread};

    #[test]
    fn the_installed_relays_storage_is_meant_where_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let environment = Environment { installed: path("installed.toml"), ..Environment::of_process() };
        let meant = |config: Option<PathBuf>, storage: Option<PathBuf>| {
            StorageArgs { config, storage }.directory(&environment).ok()
        };
        assert_eq!(meant(None, None), Some(environment.storage()));
        for name in ["installed", "other"] {
            let text = format!(
                "version = 1\n[frontend]\nmode = \"disabled\"\n[tls]\nmode = \"self-signed\"\ndomains = [\"chat.lan\"]\nstorage = {:?}\n",
                path(name)
            );
            fs::write(path(&format!("{name}.toml")), text).unwrap();
        }
        assert_eq!(meant(None, None), Some(path("installed")));
        assert_eq!(meant(Some(path("other.toml")), None), Some(path("other")));
        assert_eq!(meant(None, Some(path("given"))), Some(path("given")));
    }

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_storage_directory() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root becomes somebody else");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        chown(directory.path(), Some(65534), Some(65534)).unwrap();
        let path = directory.path().to_owned();
        // Users are a thread's own here: the other tests stay who they are.
        let written = thread::spawn(move || {
            become_owner(&path).unwrap();
            assert!(fs::read("/etc/shadow").is_err());
            Storage::open(&path).unwrap().write("a/b", b"").unwrap();
        });
        written.join().unwrap();
        let found = fs::metadata(directory.path().join("a/b")).unwrap();
        assert_eq!((found.uid(), found.gid()), (65534, 65534));
        assert!(geteuid().is_root());
    }

    #[test]
    fn a_storage_directory_that_is_not_there_or_ours_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        become_owner(directory.path()).unwrap();
        become_owner(&directory.path().join("none")).unwrap();
        assert!(Storage::open(directory.path()).is_ok());
    }
}
