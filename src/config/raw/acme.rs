//! `[tls.acme]` as it is written.

use std::{path::PathBuf, time::Duration};

use crate::config::{
    acme::{ChallengeKind, Directory, Email, Fallback, KeyType, ListenAddress, ProxyChoice},
    reader::{Choice, Table},
    setting::Setting,
};

/// `[tls.acme]`.
#[derive(Default)]
pub(crate) struct RawAcme {
    pub(crate) email: Setting<Email>,
    pub(crate) accept_terms: Setting<bool>,
    pub(crate) directory: Setting<Vec<Directory>>,
    pub(crate) allow_insecure_directory: Setting<bool>,
    pub(crate) ca_root: Setting<PathBuf>,
    pub(crate) profile: Setting<String>,
    pub(crate) challenges: Setting<Vec<ChallengeKind>>,
    pub(crate) key_type: Setting<KeyType>,
    pub(crate) eab_kid: Setting<String>,
    pub(crate) eab_hmac_file: Setting<PathBuf>,
    pub(crate) proxy: Setting<ProxyChoice>,
    pub(crate) fallback: Setting<Fallback>,
    pub(crate) on_failure: Setting<PathBuf>,
    pub(crate) dns: RawAcmeDns,
}

/// `[tls.acme.dns]`.
#[derive(Default)]
pub(crate) struct RawAcmeDns {
    pub(crate) hook: Setting<PathBuf>,
    pub(crate) listen: Setting<ListenAddress>,
    pub(crate) propagation: Setting<Duration>,
}

impl RawAcme {
    pub(super) fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            email: table.optional_text("email"),
            accept_terms: table.take("accept_terms"),
            directory: table.texts("directory"),
            allow_insecure_directory: table.take("allow_insecure_directory"),
            ca_root: table.optional_text("ca_root"),
            profile: table.optional_text("profile"),
            challenges: table.list("challenges"),
            key_type: table.take("key_type"),
            eab_kid: table.optional_text("eab_kid"),
            eab_hmac_file: table.optional_text("eab_hmac_file"),
            proxy: table.optional_text("proxy"),
            fallback: table.optional("fallback"),
            on_failure: table.optional_text("on_failure"),
            dns: table.table("dns", RawAcmeDns::read).or_default(),
        }
    }
}

impl RawAcmeDns {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self {
            hook: table.optional_text("hook"),
            listen: table.optional_text("listen"),
            propagation: table.take("propagation"),
        }
    }
}

impl Choice for KeyType {
    const CHOICES: &'static [(&'static str, Self)] = &[("p256", Self::P256), ("p384", Self::P384)];
}

impl Choice for Fallback {
    const CHOICES: &'static [(&'static str, Self)] = &[("self-signed", Self::SelfSigned)];
}
