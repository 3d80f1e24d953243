//! What the relay keeps on disk for a name.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use super::Served;

/// A name's directory in the storage directory.
pub(crate) struct Stored {
    /// The chain; its key was there and belonged to it.
    pub(crate) chain: Served,
    /// Null where it was killed before it was written.
    pub(crate) meta: Value,
}

impl Stored {
    /// `None`: there is no certificate. Fails where there is half of one.
    #[track_caller]
    pub(crate) fn read(storage: &Path, name: &str) -> Option<Self> {
        let dir = directory(storage, name);
        let chain = fs::read(dir.join("fullchain.pem"));
        let key = fs::read_to_string(dir.join("privkey.pem"));
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (Err(_), Err(_)) => return None,
            (chain, key) => panic!(
                "half a pair in {}: {:?}, {:?}",
                dir.display(),
                chain.map(|_| "a chain"),
                key.map(|_| "a key")
            ),
        };
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
        let chain = Served { chain: chain.expect("the chain is whole") };
        let key = KeyPair::from_pem(&key).expect("the key is whole");
        assert_eq!(
            chain.public_key(),
            key.subject_public_key_info(),
            "chain and key of {name} belong together"
        );
        for file in ["privkey.pem", "meta.json"] {
            if let Ok(found) = fs::metadata(dir.join(file)) {
                assert_eq!(found.permissions().mode() & 0o077, 0, "{file} is ours alone");
            }
        }
        let meta = fs::read(dir.join("meta.json")).unwrap_or_default();
        Some(Self { chain, meta: serde_json::from_slice(&meta).unwrap_or_default() })
    }
}

/// A name's ledger, which is there before there is a certificate.
#[track_caller]
pub(crate) fn meta(storage: &Path, name: &str) -> Value {
    let path = directory(storage, name).join("meta.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Says in a name's ledger that the time of `key` has come. The relay must not run.
#[track_caller]
pub(crate) fn make_due(storage: &Path, name: &str, key: &str) {
    let mut meta = meta(storage, name);
    assert!(meta[key].is_string(), "{key} is not in {meta}");
    meta[key] = "2020-01-01T00:00:00Z".into();
    fs::write(directory(storage, name).join("meta.json"), meta.to_string()).unwrap();
}

fn directory(storage: &Path, name: &str) -> PathBuf {
    storage.join("certificates").join(name.replace('*', "_"))
}
