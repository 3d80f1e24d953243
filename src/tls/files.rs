//! A certificate and its key in PEM files, read anew when they change.
//!
//! The files are polled: that works on every filesystem, through a certificate client's swaps of symbolic
//! links, and with files that are replaced, and costs two `stat` calls a turn.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{error, info};

use super::{TlsError, certificate::Certificate};
use crate::moment::moment;

/// Where a chain and its key lie; both may be in one file.
#[derive(Clone, Debug)]
pub(crate) struct PemPair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl PemPair {
    /// Reads both files.
    pub(crate) fn load(&self) -> Result<Certificate, TlsError> {
        let read =
            |path: &Path| fs::read(path).map_err(|source| TlsError::Read { file: path.to_owned(), source });
        let (chain, key) = (read(&self.cert)?, read(&self.key)?);
        Certificate::from_pem(&chain, &key).map_err(|source| TlsError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.cert), Stamp::of(&self.key)]
    }
}

/// What changes when a file does: its place on disk, size, and times (of contents, and of mode and owner).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: no such file, or one that may not be seen.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// A pair that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    pair: PemPair,
    /// The state that was read last, well or not: each state is read, and complained about, once.
    read: [Option<Stamp>; 2],
    /// The state at the last poll.
    seen: [Option<Stamp>; 2],
}

impl Watch {
    /// Reads the pair for the first time.
    pub(crate) fn open(pair: PemPair) -> Result<(Self, Arc<Certificate>), TlsError> {
        // Taken before reading, so that a change meanwhile is seen at the next poll.
        let stamps = pair.stamps();
        let certificate = Arc::new(pair.load()?);
        let watch = Self { pair, read: stamps, seen: stamps };
        Ok((watch, certificate))
    }

    /// Looks at the files once: the new certificate, if they changed and make one.
    ///
    /// A change is read when it has stood still from one poll to the next: certificate and key are replaced
    /// one after the other. What cannot be used is logged, and the caller keeps what it has.
    pub(crate) fn poll(&mut self) -> Option<Arc<Certificate>> {
        let now = self.pair.stamps();
        let settled = now == self.seen;
        self.seen = now;
        if !settled || now == self.read {
            return None;
        }
        self.read = now;
        match self.pair.load() {
            Ok(certificate) => {
                info!(
                    file = %self.pair.cert.display(),
                    fingerprint = certificate.fingerprint,
                    expires = moment(certificate.not_after),
                    "new certificate"
                );
                Some(Arc::new(certificate))
            }
            Err(error) => {
                error!("{error}; the certificate from before stays in use");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A new pair for `name` as PEM.
    fn pem(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn pair(directory: &Path) -> PemPair {
        PemPair { cert: directory.join("cert.pem"), key: directory.join("key.pem") }
    }

    fn put(pair: &PemPair, (cert, key): &(String, String)) {
        fs::write(&pair.cert, cert).unwrap();
        fs::write(&pair.key, key).unwrap();
    }

    /// The certificate's first name after enough polls for a change to settle, if there is a new one.
    fn settled(watch: &mut Watch) -> Option<String> {
        let found: Vec<_> = (0..4).filter_map(|_| watch.poll()).collect();
        assert!(found.len() <= 1, "a state is read once");
        found.first().map(|certificate| certificate.names[0].to_string())
    }

    #[test]
    fn a_new_pair_is_read_once_and_only_when_it_stands_still() {
        let directory = tempfile::tempdir().unwrap();
        let pair = pair(directory.path());
        put(&pair, &pem("a.example"));
        let (mut watch, first) = Watch::open(pair.clone()).unwrap();
        assert_eq!(first.names[0].to_string(), "a.example");
        assert_eq!(settled(&mut watch), None);
        put(&pair, &pem("b.example"));
        assert!(watch.poll().is_none(), "it may be half written");
        assert_eq!(settled(&mut watch).as_deref(), Some("b.example"));
    }

    #[test]
    fn a_broken_or_mismatched_pair_never_replaces_a_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let pair = pair(directory.path());
        let good = pem("a.example");
        put(&pair, &good);
        let (mut watch, _) = Watch::open(pair.clone()).unwrap();
        let other = pem("b.example");
        for (cert, key) in [
            ("", ""),
            (&*other.0, &*good.1),
            (&good.0, &other.1),
            (&other.0, &other.1[..60]),
            (&other.0[..200], &other.1),
        ] {
            put(&pair, &(cert.to_owned(), key.to_owned()));
            assert_eq!(settled(&mut watch), None, "{cert:.40} {key:.40}");
        }
        fs::remove_file(&pair.key).unwrap();
        assert_eq!(settled(&mut watch), None);
        put(&pair, &other);
        assert_eq!(settled(&mut watch).as_deref(), Some("b.example"));
    }

    #[test]
    fn a_link_that_is_swapped_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["1", "2"].map(|version| {
            let archive = directory.path().join(version);
            fs::create_dir(&archive).unwrap();
            pair(&archive)
        });
        put(&one, &pem("a.example"));
        put(&two, &pem("b.example"));
        let live = pair(directory.path());
        symlink(&one.cert, &live.cert).unwrap();
        symlink(&one.key, &live.key).unwrap();
        let (mut watch, _) = Watch::open(live.clone()).unwrap();
        for (link, target) in [(&live.cert, &two.cert), (&live.key, &two.key)] {
            fs::remove_file(link).unwrap();
            symlink(target, link).unwrap();
        }
        assert_eq!(settled(&mut watch).as_deref(), Some("b.example"));
    }

    #[test]
    fn a_change_of_mode_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let pair = pair(directory.path());
        put(&pair, &pem("a.example"));
        let (mut watch, _) = Watch::open(pair.clone()).unwrap();
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(settled(&mut watch).as_deref(), Some("a.example"));
    }

    #[test]
    fn a_first_pair_that_cannot_be_used_is_an_error_with_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let pair = pair(directory.path());
        let missing = Watch::open(pair.clone()).unwrap_err();
        assert!(matches!(&missing, TlsError::Read { file, .. } if *file == pair.cert));
        put(&pair, &(pem("a.example").0, pem("a.example").1));
        let mismatch = Watch::open(pair.clone()).unwrap_err().to_string();
        assert!(mismatch.contains("key.pem") && mismatch.contains("another certificate"), "{mismatch}");
    }
}
