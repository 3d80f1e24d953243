//! `cert renew`: a mark beside the certificate, which the relay finds.
//!
//! The relay alone orders: it has the ports, the account and the ledger. A mark needs no way to talk to it,
//! and waits for its next start where none runs.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{StorageArgs, become_owner, refuse};
use crate::{
    acme,
    cli::answer,
    config::{Environment, Subject},
    storage::{Storage, StorageError},
    tls::local_ca,
};

/// Which certificate `cert renew` is about.
#[derive(clap::Args)]
pub(super) struct RenewArgs {
    /// The name, address or wildcard that it is for
    #[arg(value_name = "NAME")]
    name: Subject,

    #[command(flatten)]
    storage: StorageArgs,
}

/// Why there is no mark.
#[derive(Debug)]
enum RenewError {
    /// Nothing is stored for this name.
    Unknown {
        name: Subject,
        directory: PathBuf,
    },
    /// Its certificate is the local CA's.
    Local(Subject),
    Storage(StorageError),
    /// We cannot act as the owner of the storage directory.
    Owner(io::Error),
}

/// Leaves the mark.
pub(super) fn run(arguments: &RenewArgs) -> ExitCode {
    let directory = match arguments.storage.directory(&Environment::of_process()) {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let name = &arguments.name;
    match mark(&directory, name) {
        Ok(()) => {
            answer(&format!("{name} is marked: a relay that runs renews it now, another when it starts\n"))
        }
        Err(error) => refuse(error),
    }
}

fn mark(directory: &Path, name: &Subject) -> Result<(), RenewError> {
    become_owner(directory).map_err(RenewError::Owner)?;
    let storage = Storage::at(directory);
    if !storage.path(&acme::directory(name)).is_dir() {
        let local = local_ca::stored(&storage).map_err(RenewError::Storage)?;
        if local.is_some_and(|leaf| leaf.is_for(name)) {
            return Err(RenewError::Local(name.clone()));
        }
        return Err(RenewError::Unknown { name: name.clone(), directory: directory.to_owned() });
    }
    acme::request_renewal(&storage, name).map_err(RenewError::Storage)
}

impl fmt::Display for RenewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, directory } => write!(
                f,
                "there is no certificate for {name} in {}; `parley-relay cert list` shows those that are",
                directory.display()
            ),
            Self::Local(name) => write!(
                f,
                "the certificate for {name} is from the local CA: the relay renews it by itself, long before it expires"
            ),
            Self::Storage(error) => error.fmt(f),
            Self::Owner(error) => write!(f, "cannot act as the owner of the storage directory: {error}"),
        }
    }
}

impl std::error::Error for RenewError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_there_is_marked_and_another_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let name: Subject = "*.example.org".parse().unwrap();
        let error = mark(directory.path(), &name).unwrap_err();
        assert!(error.to_string().contains("cert list"), "{error}");
        storage.write("certificates/_.example.org/meta.json", b"{}").unwrap();
        mark(directory.path(), &name).unwrap();
        // A second mark is the same one.
        mark(directory.path(), &name).unwrap();
        let left = storage.list("certificates/_.example.org").unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn the_local_cas_certificate_is_renewed_by_the_relay_itself() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let machine = local_ca::Machine::current();
        let names = vec!["chat.lan".parse().unwrap()];
        local_ca::LocalCa::open(storage, names, &machine, time::OffsetDateTime::now_utc()).unwrap();
        let refused = |name: &str| mark(directory.path(), &name.parse().unwrap()).unwrap_err().to_string();
        assert!(refused("chat.lan").contains("renews it by itself"));
        assert!(refused("other.lan").contains("cert list"));
    }
}
