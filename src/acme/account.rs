//! Accounts with CAs, each in `acme/<ca>/account.json`.

use std::fmt;

use http::Uri;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{client::Client, order_error::describe, patience::patiently};
use crate::{
    config::acme::{Authority, Directory},
    storage::{Storage, StorageError},
};

/// Why there is no account to order with.
#[derive(Debug)]
pub(crate) enum AccountError {
    Storage(StorageError),
    Acme(instant_acme::Error),
}

/// An account as it is stored. No `Debug`: it has the account's key.
#[derive(Deserialize, Serialize)]
struct Stored {
    directory: String,
    email: Option<String>,
    credentials: AccountCredentials,
}

/// The account with the CA at `directory`: the stored one, or a new one.
pub(crate) async fn open(
    storage: &Storage,
    directory: &Directory,
    authority: &Authority,
    client: &Client,
) -> Result<Account, AccountError> {
    let file = file(directory);
    let email = authority.email.as_ref().map(ToString::to_string);
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    if let Some(stored) = load(storage, &file, directory).map_err(AccountError::Storage)? {
        let text = serde_json::to_vec(&stored.credentials).unwrap_or_default();
        let account = patiently!(async {
            // What was just serialised: `AccountCredentials` cannot be cloned.
            builder().from_credentials(serde_json::from_slice(&text)?).await
        })
        .map_err(AccountError::Acme)?;
        if stored.email != email {
            let changed = Stored { email, ..stored };
            change_email(storage, &file, &account, &changed).await;
        }
        return Ok(account);
    }
    let contact: Vec<_> = email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<_> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        // The config says so, or there is no ACME.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = authority
        .external_account
        .as_ref()
        .map(|external| ExternalAccountKey::new(external.kid.clone(), &external.key));
    let (account, credentials) = patiently!(builder().create(&new, directory.to_string(), external.as_ref()))
        .map_err(AccountError::Acme)?;
    let new = Stored { directory: directory.to_string(), email, credentials };
    store(storage, &file, &new).map_err(AccountError::Storage)?;
    info!(ca = %directory, "account registered");
    Ok(account)
}

/// Puts the account aside that the CA knows no longer: the next try registers a new one.
pub(crate) fn forget(storage: &Storage, directory: &Directory) -> Result<(), StorageError> {
    set_aside(storage, &file(directory))
}

async fn change_email(storage: &Storage, file: &str, account: &Account, changed: &Stored) {
    let contact: Vec<_> = changed.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<_> = contact.iter().map(String::as_str).collect();
    // No reason to fail an order: it is tried again with the next.
    if let Err(error) = patiently!(account.update_contacts(&contact)) {
        warn!("the CA does not take the new e-mail address: {}", describe(&error));
    } else if let Err(error) = store(storage, file, changed) {
        warn!("the new e-mail address is not stored: {error}");
    }
}

/// The account that is stored for `directory`. A file that has none is put aside.
fn load(storage: &Storage, file: &str, directory: &Directory) -> Result<Option<Stored>, StorageError> {
    let Some(text) = storage.read(file)? else {
        return Ok(None);
    };
    match serde_json::from_slice::<Stored>(&text) {
        Ok(stored) if stored.directory == directory.to_string() => return Ok(Some(stored)),
        // Another directory of the same host, whose name came out the same.
        Ok(_) => {}
        // The parser's message would quote what it read.
        Err(_) => warn!(
            file = %storage.path(file).display(),
            "the stored account is damaged; a new one is registered"
        ),
    }
    set_aside(storage, file)?;
    Ok(None)
}

fn store(storage: &Storage, file: &str, stored: &Stored) -> Result<(), StorageError> {
    // Strings in structs: nothing of that fails to become JSON.
    storage.write(file, &serde_json::to_vec_pretty(stored).unwrap_or_default())
}

fn set_aside(storage: &Storage, file: &str) -> Result<(), StorageError> {
    let from = storage.path(file);
    std::fs::rename(&from, storage.path(&format!("{file}.old")))
        .map_err(|source| StorageError::Write { file: from, source })
}

/// Where the account with this CA lies. Two directories of one host are two CAs.
fn file(directory: &Directory) -> String {
    format!("acme/{}/account.json", name(&directory.url))
}

/// `acme-v02.api.letsencrypt.org`, `ca.lan_9000_acme_home`.
fn name(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().map(|port| format!("_{port}")).unwrap_or_default();
    let path = url.path().trim_end_matches("/directory").trim_end_matches('/');
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }
    };
    format!("{host}{port}{path}").chars().map(plain).collect()
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Acme(error) => write!(f, "no account: {}", describe(error)),
        }
    }
}

impl std::error::Error for AccountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Storage(error) => Some(error),
            Self::Acme(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ca_has_a_directory_with_a_name_that_a_person_knows() {
        for (url, expected) in [
            ("https://acme-v02.api.letsencrypt.org/directory", "acme-v02.api.letsencrypt.org"),
            ("https://acme.zerossl.com/v2/DV90", "acme.zerossl.com_v2_DV90"),
            ("https://ca.lan:9000/acme/home/directory", "ca.lan_9000_acme_home"),
            ("https://[::1]:14000/dir", "___1__14000_dir"),
        ] {
            assert_eq!(name(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_damaged_account_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        storage.write("acme/ca/account.json", b"{\"credentials\":1}").unwrap();
        assert!(load(&storage, "acme/ca/account.json", &Directory::default()).unwrap().is_none());
        assert!(storage.path("acme/ca/account.json.old").exists());
        assert!(!storage.path("acme/ca/account.json").exists());
    }
}
