//! A certificate authority of our own, for names that no public one vouches for.
//!
//! Its root lives ten years and can vouch for nothing but what is served here and local names; a device that
//! trusts it once trusts the relay for good. The leaf lives 90 days and is renewed by itself.

mod machine;
mod permitted;
mod root;

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::{TlsError, certificate::Certificate};
use crate::{
    config::ServerName,
    moment::moment,
    storage::{Storage, StorageError},
};
pub(crate) use machine::Machine;
use permitted::Permitted;
use root::Root;

/// The root's certificate without its key: what devices are given. A copy, made anew from the one beside its key.
pub(crate) const ROOT: &str = "local-ca/root.pem";

/// The leaf's certificate and key, in one file because two cannot be replaced at once (K9).
const LEAF_KEY: &str = "local-ca/leaf-key.pem";

/// The authority, with the leaf that it has issued.
#[derive(Debug)]
pub(crate) struct LocalCa {
    storage: Storage,
    /// What the leaf must be for.
    names: Vec<ServerName>,
    root: Root,
    leaf: Arc<Certificate>,
}

impl LocalCa {
    /// The root and leaf in `storage`; what is not there, or fits no longer, is made.
    pub(crate) fn open(
        storage: Storage,
        names: Vec<ServerName>,
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Self, TlsError> {
        let root = Root::open(&storage, &names, machine, now)?;
        let wanted = wanted(&names, machine, &root.permitted);
        let leaf = match stored_leaf(&storage, &root, &wanted, now)? {
            Some(leaf) => leaf,
            None => issue_leaf(&storage, &root, &wanted, now)?,
        };
        Ok(Self { storage, names, root, leaf: Arc::new(leaf) })
    }

    /// The certificate to serve.
    pub(crate) fn leaf(&self) -> &Arc<Certificate> {
        &self.leaf
    }

    /// A new leaf, if the old one is due or the machine has got a name or address that is not in it.
    pub(crate) fn renew(
        &mut self,
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Option<Arc<Certificate>>, TlsError> {
        let root_expired = self.root.misfit(&self.names, now).is_some();
        if root_expired {
            self.root = Root::open(&self.storage, &self.names, machine, now)?;
        }
        let wanted = wanted(&self.names, machine, &self.root.permitted);
        let covers_all = wanted.iter().all(|name| self.leaf.names.contains(name));
        if covers_all && !root_expired && !renewal_due(&self.leaf, self.root.clock(now)) {
            return Ok(None);
        }
        self.leaf = Arc::new(issue_leaf(&self.storage, &self.root, &wanted, now)?);
        Ok(Some(Arc::clone(&self.leaf)))
    }
}

/// The leaf in `storage`, if one was issued: the relay renews it by itself.
pub(crate) fn stored(storage: &Storage) -> Result<Option<Certificate>, StorageError> {
    // What is damaged is made anew.
    Ok(storage.read(LEAF_KEY)?.and_then(|pem| Certificate::from_pem(&pem, &pem).ok()))
}

/// What devices meet when the relay next opens the authority in `storage` for `names`: a new root, if the present one
/// does not fit. Nothing, where there is none yet, or none that can be read here.
pub(crate) fn replaced(storage: &Storage, names: &[ServerName], now: OffsetDateTime) -> Option<String> {
    let misfit = Root::stored(storage).ok()??.misfit(names, now)?;
    Some(format!("a NEW local CA will be made: the present one {misfit}"))
}

/// What is to be done where one is [`replaced`].
pub(crate) const TRUST_ANEW: &str = "every device has to trust the new one";

/// Whether its time has come, or it is not valid yet because the clock went back.
fn renewal_due(certificate: &Certificate, now: OffsetDateTime) -> bool {
    now < certificate.not_before || now >= renewal(certificate)
}

/// When a leaf is renewed: when two thirds of its life have passed.
pub(crate) fn renewal(certificate: &Certificate) -> OffsetDateTime {
    let life = certificate.not_after - certificate.not_before;
    certificate.not_before + life * 2 / 3
}

/// Whether clients may come by an address or a name that only their own network knows.
fn is_local(names: &[ServerName]) -> bool {
    names.is_empty() || names.iter().any(ServerName::is_local)
}

/// What the leaf is to be for: the configured names, and for a local one all that the machine goes by.
///
/// Of the latter, what the root cannot vouch for (a public address, a host name given later) is left out:
/// nobody asked for it, so it is not worth a new root.
fn wanted(names: &[ServerName], machine: &Machine, permitted: &Permitted) -> Vec<ServerName> {
    let own = if is_local(names) { machine.names() } else { Vec::new() };
    let mut wanted = Vec::new();
    for name in names.iter().cloned().chain(own) {
        if permitted.permits(&name) && !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    wanted
}

/// The stored leaf, if clients that trust `root` take it for all of `wanted`, and it is not due.
fn stored_leaf(
    storage: &Storage,
    root: &Root,
    wanted: &[ServerName],
    now: OffsetDateTime,
) -> Result<Option<Certificate>, TlsError> {
    let Some(pem) = storage.read(LEAF_KEY).map_err(TlsError::Storage)? else {
        return Ok(None);
    };
    match Certificate::from_pem(&pem, &pem) {
        Ok(leaf) => {
            let now = root.clock(now);
            let fits = !renewal_due(&leaf, now) && root.vouches(&leaf, wanted, now);
            Ok(fits.then_some(leaf))
        }
        Err(error) => {
            warn!(file = %storage.path(LEAF_KEY).display(), "the stored certificate is made anew: {error}");
            Ok(None)
        }
    }
}

fn issue_leaf(
    storage: &Storage,
    root: &Root,
    wanted: &[ServerName],
    now: OffsetDateTime,
) -> Result<Certificate, TlsError> {
    let pem = root.issue(wanted, now).map_err(TlsError::Issue)?;
    let leaf = Certificate::from_pem(pem.as_bytes(), pem.as_bytes()).map_err(TlsError::Issued)?;
    // On a full disk it is served from memory: better a certificate that changes at the next start than none.
    if let Err(error) = storage.write(LEAF_KEY, pem.as_bytes()) {
        error!("the new certificate is not stored: {error}");
    }
    info!(
        fingerprint = leaf.fingerprint,
        expires = moment(leaf.not_after),
        "the local CA issued a certificate"
    );
    if root.certificate.not_after < leaf.not_after {
        warn!(
            expires = moment(root.certificate.not_after),
            "the local CA's root expires soon; a new one is then made, which every device has to trust"
        );
    }
    Ok(leaf)
}

#[cfg(test)]
mod tests {
    use super::{root::ROOT_KEY, *};
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};
    use time::{Duration, macros::datetime};

    const NOW: OffsetDateTime = datetime!(2026-07-01 12:00 UTC);

    fn names(texts: &[&str]) -> Vec<ServerName> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn machine() -> Machine {
        Machine {
            host_name: Some("tower".into()),
            addresses: ["192.168.7.7", "fd00::7", "203.0.113.9"]
                .map(|address| address.parse().unwrap())
                .into(),
        }
    }

    fn open(directory: &Path, texts: &[&str], now: OffsetDateTime) -> Result<LocalCa, TlsError> {
        LocalCa::open(Storage::open(directory).unwrap(), names(texts), &machine(), now)
    }

    fn root(ca: &LocalCa) -> &str {
        &ca.root.certificate.fingerprint
    }

    fn old_roots(directory: &Path) -> usize {
        let found = fs::read_dir(directory.join("local-ca")).unwrap();
        found
            .filter(|entry| {
                entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("old-root-key-2026-07-")
            })
            .count()
    }

    #[test]
    fn root_and_leaf_are_the_same_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let again = open(directory.path(), &["chat.lan"], NOW + Duration::days(59)).unwrap();
        assert_eq!(root(&first), root(&again));
        assert_eq!(first.leaf.fingerprint, again.leaf.fingerprint);
    }

    #[test]
    fn what_is_stored_is_private_and_the_published_root_has_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        for name in [ROOT, ROOT_KEY, LEAF_KEY] {
            let mode = ca.storage.path(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let mode = directory.path().join("local-ca").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let published = fs::read_to_string(ca.storage.path(ROOT)).unwrap();
        assert!(published.contains("CERTIFICATE") && !published.contains("KEY"), "{published}");
        assert!(!format!("{ca:?}").contains("KEY"));
    }

    #[test]
    fn the_published_root_has_no_key_even_where_the_key_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let published = fs::read_to_string(ca.storage.path(ROOT)).unwrap();
        let stored = fs::read_to_string(ca.storage.path(ROOT_KEY)).unwrap();
        let key = stored.split_once("-----BEGIN PRIVATE").unwrap().1;
        fs::write(ca.storage.path(ROOT_KEY), format!("-----BEGIN PRIVATE{key}{published}")).unwrap();
        fs::remove_file(ca.storage.path(ROOT)).unwrap();
        let again = open(directory.path(), &["chat.lan"], NOW).unwrap();
        assert_eq!(root(&again), root(&ca));
        assert_eq!(fs::read_to_string(ca.storage.path(ROOT)).unwrap(), published);
    }

    #[test]
    fn a_local_name_brings_all_that_the_machine_goes_by() {
        let directory = tempfile::tempdir().unwrap();
        let ca = open(directory.path(), &["chat.lan", "10.9.8.7"], NOW).unwrap();
        // Not the machine's public address: the root does not vouch for it.
        let expected = [
            "chat.lan",
            "10.9.8.7",
            "tower",
            "tower.local",
            "localhost",
            "127.0.0.1",
            "::1",
            "192.168.7.7",
            "fd00::7",
        ];
        assert_eq!(ca.leaf.names, names(&expected));
        assert!(ca.root.vouches(&ca.leaf, &names(&expected), NOW));
    }

    #[test]
    fn a_public_name_stays_alone() {
        let directory = tempfile::tempdir().unwrap();
        let ca = open(directory.path(), &["chat.example.org"], NOW).unwrap();
        assert_eq!(ca.leaf.names, names(&["chat.example.org"]));
        assert!(ca.root.vouches(&ca.leaf, &ca.names, NOW));
    }

    #[test]
    fn a_verifier_refuses_what_is_outside_the_constraints() {
        let directory = tempfile::tempdir().unwrap();
        let public = open(directory.path(), &["chat.example.org"], NOW).unwrap();
        for (root, outside) in
            [(&public.root, "example.org"), (&public.root, "192.168.7.7"), (&public.root, "fd00::7")]
        {
            let pem = root.issue(&names(&[outside]), NOW).unwrap();
            let leaf = Certificate::from_pem(pem.as_bytes(), pem.as_bytes()).unwrap();
            assert!(!root.vouches(&leaf, &names(&[outside]), NOW), "{outside}");
        }
        let directory = tempfile::tempdir().unwrap();
        let local = open(directory.path(), &["192.168.7.7"], NOW).unwrap();
        for outside in ["8.8.8.8", "2001:db8::1", "example.org"] {
            let pem = local.root.issue(&names(&[outside]), NOW).unwrap();
            let leaf = Certificate::from_pem(pem.as_bytes(), pem.as_bytes()).unwrap();
            assert!(!local.root.vouches(&leaf, &names(&[outside]), NOW), "{outside}");
        }
    }

    #[test]
    fn the_leaf_is_renewed_at_two_thirds_of_its_life_by_the_same_root() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let (old_root, old_leaf) = (root(&ca).to_owned(), Arc::clone(ca.leaf()));
        assert_eq!(old_leaf.not_before, NOW - Duration::hours(1));
        assert_eq!(old_leaf.not_after - old_leaf.not_before, Duration::days(90));
        let due = old_leaf.not_before + Duration::days(60);
        assert!(ca.renew(&machine(), due - Duration::seconds(1)).unwrap().is_none());
        let new = ca.renew(&machine(), due).unwrap().unwrap();
        assert_ne!(new.fingerprint, old_leaf.fingerprint);
        assert_eq!(root(&ca), old_root);
        assert!(ca.root.vouches(&new, &ca.names, due));
        assert!(ca.renew(&machine(), due).unwrap().is_none());
        let again = open(directory.path(), &["chat.lan"], due).unwrap();
        assert_eq!(again.leaf.fingerprint, new.fingerprint);
    }

    #[test]
    fn k10_a_clock_that_jumps_costs_one_leaf_at_the_most() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let old_root = root(&ca).to_owned();
        for now in [NOW - Duration::days(20_000), NOW - Duration::days(365), NOW - Duration::days(1)] {
            assert!(ca.renew(&machine(), now).unwrap().is_none(), "{now}");
        }
        let ahead = NOW + Duration::days(365);
        assert!(ca.renew(&machine(), ahead).unwrap().is_some());
        assert!(ca.renew(&machine(), ahead).unwrap().is_none());
        // Back again: the leaf is of the future, and nobody would take it.
        assert!(ca.renew(&machine(), NOW).unwrap().is_some());
        assert!(ca.renew(&machine(), NOW).unwrap().is_none());
        assert_eq!(root(&ca), old_root);
    }

    #[test]
    fn k10_a_root_made_before_the_clock_was_set_is_valid_when_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], datetime!(1970-01-01 00:01 UTC)).unwrap();
        let old_root = root(&ca).to_owned();
        let leaf = ca.renew(&machine(), NOW).unwrap().unwrap();
        assert!(ca.root.vouches(&leaf, &ca.names, NOW));
        assert_eq!(root(&ca), old_root);
    }

    #[test]
    fn names_inside_the_constraints_keep_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), &["192.168.7.7"], NOW).unwrap();
        let more = open(directory.path(), &["192.168.7.7", "chat.lan", "10.0.0.1"], NOW).unwrap();
        assert_eq!(root(&first), root(&more));
        assert_ne!(first.leaf.fingerprint, more.leaf.fingerprint);
        assert!(more.root.vouches(&more.leaf, &more.names, NOW));
        // A name less: what is there serves on.
        let fewer = open(directory.path(), &["192.168.7.7"], NOW).unwrap();
        assert_eq!(fewer.leaf.fingerprint, more.leaf.fingerprint);
        assert_eq!(old_roots(directory.path()), 0);
    }

    #[test]
    fn an_address_that_the_machine_gets_later_is_in_the_next_leaf() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let mut moved = machine();
        moved.addresses.push("192.168.7.8".parse().unwrap());
        let leaf = ca.renew(&moved, NOW).unwrap().unwrap();
        assert!(leaf.names.contains(&"192.168.7.8".parse().unwrap()));
        assert!(ca.renew(&machine(), NOW).unwrap().is_none(), "an address less is no reason");
    }

    #[test]
    fn names_outside_the_constraints_make_a_new_root_and_keep_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let old = fs::read(first.storage.path(ROOT_KEY)).unwrap();
        let second = open(directory.path(), &["chat.lan", "chat.example.org"], NOW).unwrap();
        assert_ne!(root(&first), root(&second));
        assert!(second.root.vouches(&second.leaf, &second.names, NOW));
        assert_eq!(old_roots(directory.path()), 1);
        let kept = first.storage.path("local-ca/old-root-key-2026-07-01T12-00-00Z.pem");
        assert_eq!(fs::read(kept).unwrap(), old);
        let published = fs::read(second.storage.path(ROOT)).unwrap();
        assert!(!old.starts_with(&published));
    }

    #[test]
    fn an_expired_root_is_replaced_while_running() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let old_root = root(&ca).to_owned();
        let later = ca.root.certificate.not_after;
        let leaf = ca.renew(&machine(), later).unwrap().unwrap();
        assert_ne!(root(&ca), old_root);
        assert!(ca.root.vouches(&leaf, &ca.names, later));
    }

    #[test]
    fn a_corrupt_leaf_is_made_anew_by_the_same_root() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let foreign = rcgen::generate_simple_self_signed(["chat.lan".to_owned()]).unwrap();
        let foreign = foreign.cert.pem() + &foreign.signing_key.serialize_pem();
        for damage in ["", "junk", &foreign[..300], &foreign] {
            fs::write(first.storage.path(LEAF_KEY), damage).unwrap();
            let again = open(directory.path(), &["chat.lan"], NOW).unwrap();
            assert_eq!(root(&first), root(&again));
            assert!(again.root.vouches(&again.leaf, &again.names, NOW));
        }
    }

    #[test]
    fn a_damaged_or_half_root_is_an_error_and_never_a_new_root() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let file = first.storage.path(ROOT_KEY);
        let whole = fs::read_to_string(&file).unwrap();
        let certificate = whole.find("-----BEGIN PRIVATE").unwrap();
        for damage in
            ["", &whole[..certificate], &whole[certificate..], &whole[..200], &whole[..whole.len() - 60]]
        {
            fs::write(&file, damage).unwrap();
            let error = open(directory.path(), &["chat.lan"], NOW).unwrap_err();
            assert!(matches!(&error, TlsError::Root { file: named, .. } if *named == file), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), damage);
        }
        fs::remove_file(&file).unwrap();
        let error = open(directory.path(), &["chat.lan"], NOW).unwrap_err();
        assert!(matches!(error, TlsError::RootWithoutKey { .. }), "{error}");
        assert!(!file.exists());
        // The root's key alone is all that is needed.
        fs::write(&file, &whole).unwrap();
        fs::remove_file(first.storage.path(ROOT)).unwrap();
        let again = open(directory.path(), &["chat.lan"], NOW).unwrap();
        assert_eq!(root(&first), root(&again));
        assert!(whole.starts_with(fs::read_to_string(first.storage.path(ROOT)).unwrap().trim_end()));
    }

    #[test]
    fn a_leaf_that_cannot_be_stored_is_served_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let mut ca = open(directory.path(), &["chat.lan"], NOW).unwrap();
        let file = ca.storage.path(LEAF_KEY);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(ca.renew(&machine(), NOW + Duration::days(70)).unwrap().is_some());
        assert!(ca.renew(&machine(), NOW + Duration::days(70)).unwrap().is_none());
    }
}
