//! Keys and certificates on disk: a directory of our own, private, each file whole or not there.

mod pair;

use std::{
    fmt,
    fs::{DirBuilder, File, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub(crate) use pair::{Generation, Pair};

/// The storage directory. Names of files in it are relative, such as `local-ca/root.pem`.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    directory: PathBuf,
}

/// A file that no other process has locked for as long as this is kept. The system unlocks it when the
/// process ends, however it does.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What went wrong with the storage directory.
#[derive(Debug)]
pub(crate) enum StorageError {
    /// The directory, or one in it, cannot be made.
    Create { directory: PathBuf, source: io::Error },
    /// A file cannot be written; what was there before still is.
    Write { file: PathBuf, source: io::Error },
    /// A file that is there cannot be read.
    Read { file: PathBuf, source: io::Error },
}

impl Storage {
    /// The directory at `path`, made if it is not there, and known to be writable.
    pub(crate) fn open(path: &Path) -> Result<Self, StorageError> {
        let storage = Self::at(path);
        create_directory(path)?;
        tempfile::tempfile_in(path)
            .map_err(|source| StorageError::Write { file: path.to_owned(), source })?;
        Ok(storage)
    }

    /// The directory at `path`, for reading what may be there.
    pub(crate) fn at(path: &Path) -> Self {
        Self { directory: path.to_owned() }
    }

    /// Where the file `name` lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The contents of the file `name`; `None`: there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let file = self.path(name);
        match std::fs::read(&file) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StorageError::Read { file, source }),
        }
    }

    /// Removes the file `name`; one that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StorageError> {
        let file = self.path(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| StorageError::Write { file, source }),
        }
    }

    /// The names of what lies in `directory`, sorted; none where it is not there.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        let file = self.path(directory);
        let names = || -> io::Result<Vec<String>> {
            let entries = std::fs::read_dir(&file)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
            let names: io::Result<Vec<_>> = entries.collect();
            let mut names: Vec<_> = names?.into_iter().flatten().collect();
            names.sort();
            Ok(names)
        };
        match names() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(|source| StorageError::Read { file: file.clone(), source }),
        }
    }

    /// Locks the file `name`, which is made if it is not there; `None`: somebody else has.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<Lock>, StorageError> {
        let file = self.path(name);
        create_directory(file.parent().unwrap_or(&self.directory))?;
        let opened = File::options().create(true).append(true).mode(0o600).open(&file);
        let locked = opened.and_then(|lock| match lock.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        });
        locked.map_err(|source| StorageError::Write { file, source })
    }

    /// Puts `contents` in place of the file `name`, readable by its owner alone.
    ///
    /// Atomic: after a crash or a power cut at any point the file is the whole old or the whole new one (K9).
    /// Two files are never written together, so what belongs together goes into one.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> Result<(), StorageError> {
        let file = self.path(name);
        let directory = file.parent().unwrap_or(&self.directory);
        create_directory(directory)?;
        replace(&file, 0o600, contents).map_err(|source| StorageError::Write { file, source })
    }
}

/// Makes `directory` and what is above it, mode 0700; one that is there keeps its mode.
fn create_directory(directory: &Path) -> Result<(), StorageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| StorageError::Create { directory: directory.to_owned(), source })
}

/// Puts a file of this mode at the path, where there is a whole one at every moment.
pub(crate) fn replace(file: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    // Made with mode 0600, and removed again if anything below fails.
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(contents)?;
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    // The contents reach the disk before the name does, and the name before we go on.
    new.as_file().sync_all()?;
    new.persist(file)?;
    File::open(directory)?.sync_all()
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { directory, source } => write!(
                f,
                "the storage directory {} cannot be made: {source}; choose another one with --storage DIR",
                directory.display()
            ),
            Self::Write { file, source } => write!(
                f,
                "{} cannot be written: {source}; make it writable for the relay's user, \
                 or choose another directory with --storage DIR",
                file.display()
            ),
            Self::Read { file, source } => write!(
                f,
                "{} cannot be read: {source}; it belongs to the user that the relay runs as",
                file.display()
            ),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Create { source, .. } | Self::Write { source, .. } | Self::Read { source, .. } => {
                Some(source)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn directories_are_made_0700_and_files_0600() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let storage = Storage::open(&path).unwrap();
        storage.write("c/key.pem", b"one").unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("c")), 0o700);
        assert_eq!(mode(&storage.path("c/key.pem")), 0o600);
    }

    #[test]
    fn a_file_is_replaced_whole_and_its_mode_with_it() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        assert_eq!(storage.read("key.pem").unwrap(), None);
        std::fs::write(storage.path("key.pem"), "a longer text").unwrap();
        storage.write("key.pem", b"two").unwrap();
        assert_eq!(storage.read("key.pem").unwrap().unwrap(), b"two");
        assert_eq!(mode(&storage.path("key.pem")), 0o600);
    }

    #[test]
    fn k9_a_write_that_fails_leaves_the_old_file_and_no_litter() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        // A directory in the file's place: the rename is refused, after everything was written.
        std::fs::create_dir(storage.path("key.pem")).unwrap();
        assert!(matches!(storage.write("key.pem", b"two"), Err(StorageError::Write { .. })));
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_lock_is_had_once_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        let lock = storage.try_lock("a/lock").unwrap();
        assert!(lock.is_some());
        assert!(storage.try_lock("a/lock").unwrap().is_none());
        drop(lock);
        assert!(storage.try_lock("a/lock").unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_a_directory_is_refused_with_advice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Storage::open(&file.path().join("below")).unwrap_err();
        assert!(error.to_string().contains("--storage DIR"), "{error}");
        assert!(error.to_string().contains(&*file.path().to_string_lossy()));
    }
}
