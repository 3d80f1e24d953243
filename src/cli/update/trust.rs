//! Whether others could have put something into a directory that releases are taken from.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// Others than the owner of a file may write it.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a directory is not trusted.
#[derive(Debug)]
pub(super) enum TrustError {
    Unseen(PathBuf, io::Error),
    /// It belongs to another user.
    Owner(PathBuf, u32),
    /// Others may write it.
    Writable(PathBuf),
}

/// SECURITY: what lies there is run as who runs this, root most often, and checksums beside it say nothing: whoever
/// could change one could change both, or move a directory above away.
pub(super) fn check(directory: &Path, files: &[&str]) -> Result<(), TrustError> {
    let whole =
        fs::canonicalize(directory).map_err(|error| TrustError::Unseen(directory.to_owned(), error))?;
    for (path, depth) in whole.ancestors().zip(0..) {
        // Where a directory is sticky, as /tmp is, nobody moves what is another's.
        check_one(path, depth > 0)?;
    }
    for file in files {
        let path = whole.join(file);
        if path.exists() {
            check_one(&fs::canonicalize(&path).map_err(|error| TrustError::Unseen(path, error))?, false)?;
        }
    }
    Ok(())
}

fn check_one(path: &Path, may_be_sticky: bool) -> Result<(), TrustError> {
    let found = fs::metadata(path).map_err(|error| TrustError::Unseen(path.to_owned(), error))?;
    if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        return Err(TrustError::Owner(path.to_owned(), found.uid()));
    }
    let is_safe = found.mode() & OTHERS_WRITE == 0 || may_be_sticky && found.mode() & STICKY != 0;
    if is_safe { Ok(()) } else { Err(TrustError::Writable(path.to_owned())) }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Unseen(path, error) => return write!(f, "{} cannot be looked at: {error}", path.display()),
            Self::Owner(path, user) => {
                write!(f, "{} belongs to user {user}", path.display())?;
                path
            }
            Self::Writable(path) => {
                write!(f, "others than its owner may write {}", path.display())?;
                path
            }
        };
        write!(
            f,
            ", who could put another program there: `chown root {0}; chmod go-w {0}`, or releases with a signature and \
             --public-key",
            path.display()
        )
    }
}

impl std::error::Error for TrustError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn a_directory_that_others_can_write_or_move_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let (above, mirror) = (directory.path().join("above"), directory.path().join("above/mirror"));
        fs::create_dir_all(&mirror).unwrap();
        let file = mirror.join("version.txt");
        fs::write(&file, "").unwrap();
        let trusted = || check(&mirror, &["version.txt", "not-there"]);
        assert!(trusted().is_ok(), "{:?}", trusted());
        for path in [&file, &mirror, &above] {
            let mode = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
            assert!(
                matches!(trusted(), Err(TrustError::Writable(told)) if told == fs::canonicalize(path).unwrap())
            );
            fs::set_permissions(path, mode).unwrap();
            if geteuid().is_root() {
                chown(path, Some(65534), None).unwrap();
                assert!(matches!(trusted(), Err(TrustError::Owner(_, 65534))), "{}", path.display());
                chown(path, Some(0), None).unwrap();
            }
        }
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "").unwrap();
        fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o666)).unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(matches!(trusted(), Err(TrustError::Writable(told)) if told.ends_with("elsewhere")));
        assert!(matches!(check(&directory.path().join("none"), &[]), Err(TrustError::Unseen(..))));
    }
}
