//! A certificate and its key as two files that are replaced at one instant.
//!
//! No call replaces two files at once, so that neither of them is ever replaced (K9):
//!
//! ```text
//! certificates/chat.example.org/
//!   current -> pair-7               renamed over the old link: the instant
//!   pair-7/{fullchain.pem,privkey.pem}   written and synced before, never changed after
//!   pair-6/                         the one before, for who had just read the link
//!   fullchain.pem -> current/fullchain.pem
//!   privkey.pem -> current/privkey.pem
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::Path,
};

use super::{Storage, StorageError, create_directory, replace};

pub(crate) const CHAIN: &str = "fullchain.pem";
pub(crate) const KEY: &str = "privkey.pem";
const CURRENT: &str = "current";
const GENERATION: &str = "pair-";

/// A chain and its key in PEM.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Pair {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// Which of the pairs that were ever stored in a directory is the current one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Generation(u64);

impl Generation {
    fn parse(name: &Path) -> Option<Self> {
        name.to_str()?.strip_prefix(GENERATION)?.parse().ok().map(Self)
    }

    fn directory(self) -> String {
        format!("{GENERATION}{}", self.0)
    }
}

impl Storage {
    /// Which pair in `directory` is the current one; `None`: there is none.
    pub(crate) fn generation(&self, directory: &str) -> Option<Generation> {
        Generation::parse(&fs::read_link(self.path(directory).join(CURRENT)).ok()?)
    }

    /// The current pair in `directory`, with its number.
    pub(crate) fn read_pair(&self, directory: &str) -> Result<Option<(Generation, Pair)>, StorageError> {
        let Some(generation) = self.generation(directory) else {
            return Ok(None);
        };
        // Not through the link: it may be replaced between the two.
        let place = format!("{directory}/{}", generation.directory());
        let chain = self.read(&format!("{place}/{CHAIN}"))?;
        let key = self.read(&format!("{place}/{KEY}"))?;
        Ok(chain.zip(key).map(|(chain, key)| (generation, Pair { chain, key })))
    }

    /// Makes `pair` the current one in `directory`. After a crash at any point it is the whole old or the
    /// whole new one.
    pub(crate) fn write_pair(&self, directory: &str, pair: &Pair) -> Result<Generation, StorageError> {
        let place = self.path(directory);
        create_directory(&place)?;
        write_pair(&place, pair).map_err(|source| StorageError::Write { file: place, source })
    }
}

fn write_pair(directory: &Path, pair: &Pair) -> io::Result<Generation> {
    // What a crash left behind is not written into: its number is passed over.
    let generations = generations(directory)?;
    let new = Generation(generations.iter().max().map_or(1, |last| last.0.saturating_add(1)));
    let made = directory.join(new.directory());
    let written = write_generation(&made, pair).and_then(|()| {
        // Before there is a first pair they lead nowhere: both files come into being at the instant below.
        for file in [CHAIN, KEY] {
            let target = format!("{CURRENT}/{file}");
            if fs::read_link(directory.join(file)).ok().as_deref() != Some(Path::new(&target)) {
                swap_link(directory, file, &target)?;
            }
        }
        swap_link(directory, CURRENT, &new.directory())
    });
    let current = fs::read_link(directory.join(CURRENT)).ok();
    if let Err(error) = written {
        if current.as_deref() != Some(Path::new(&new.directory())) {
            // On a full disk the room is needed; what cannot be removed is removed after the next success.
            let _ = fs::remove_dir_all(&made);
        }
        return Err(error);
    }
    let before = generations.iter().max();
    for old in generations.iter().filter(|old| Some(*old) != before) {
        // Not worth a failure: the new pair stands.
        let _ = fs::remove_dir_all(directory.join(old.directory()));
    }
    Ok(new)
}

fn write_generation(directory: &Path, pair: &Pair) -> io::Result<()> {
    create_directory(directory).map_err(|error| match error {
        StorageError::Create { source, .. }
        | StorageError::Write { source, .. }
        | StorageError::Read { source, .. } => source,
    })?;
    replace(&directory.join(CHAIN), 0o600, &pair.chain)?;
    replace(&directory.join(KEY), 0o600, &pair.key)
}

/// Puts a link to `target` in place of `name`.
fn swap_link(directory: &Path, name: &str, target: &str) -> io::Result<()> {
    let new = directory.join(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(target, &new)?;
    // The pair's directory entry and the new link reach the disk before the link gets its name.
    File::open(directory)?.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn generations(directory: &Path) -> io::Result<Vec<Generation>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let names: io::Result<Vec<_>> = names.collect();
    Ok(names?.iter().filter_map(|name| Generation::parse(Path::new(name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(text: &str) -> Pair {
        Pair { chain: format!("chain {text}").into(), key: format!("key {text}").into() }
    }

    fn storage() -> (tempfile::TempDir, Storage) {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        (directory, storage)
    }

    #[test]
    fn a_pair_is_read_back_and_lies_where_a_person_looks() {
        let (_directory, storage) = storage();
        assert!(storage.read_pair("certificates/a").unwrap().is_none());
        for text in ["one", "two", "three"] {
            let written = storage.write_pair("certificates/a", &pair(text)).unwrap();
            let (generation, read) = storage.read_pair("certificates/a").unwrap().unwrap();
            assert!(generation == written && read == pair(text));
            let chain = fs::read(storage.path("certificates/a/fullchain.pem")).unwrap();
            assert_eq!(chain, pair(text).chain);
            let key = fs::read(storage.path("certificates/a/privkey.pem")).unwrap();
            assert_eq!(key, pair(text).key);
        }
        // The current one and the one before.
        assert_eq!(generations(&storage.path("certificates/a")).unwrap().len(), 2);
    }

    #[test]
    fn k9_what_a_crash_left_behind_is_neither_read_nor_in_the_way() {
        let (_directory, storage) = storage();
        let place = storage.path("a");
        storage.write_pair("a", &pair("one")).unwrap();
        fs::create_dir(place.join("pair-2")).unwrap();
        fs::write(place.join("pair-2/fullchain.pem"), "half").unwrap();
        symlink("pair-2", place.join(".current.new")).unwrap();
        assert!(storage.read_pair("a").unwrap().unwrap().1 == pair("one"));
        storage.write_pair("a", &pair("three")).unwrap();
        assert!(storage.read_pair("a").unwrap().unwrap().1 == pair("three"));
    }

    #[test]
    fn k9_before_the_first_pair_is_whole_neither_of_its_files_is_there() {
        let (_directory, storage) = storage();
        fs::create_dir_all(storage.path("a/.current.new")).unwrap();
        assert!(storage.write_pair("a", &pair("one")).is_err());
        for file in ["fullchain.pem", "privkey.pem"] {
            assert!(fs::read(storage.path("a").join(file)).is_err(), "{file}");
        }
        fs::remove_dir(storage.path("a/.current.new")).unwrap();
        storage.write_pair("a", &pair("two")).unwrap();
        for file in ["fullchain.pem", "privkey.pem"] {
            assert!(fs::read(storage.path("a").join(file)).is_ok(), "{file}");
        }
    }

    #[test]
    fn k9_a_write_that_fails_leaves_the_old_pair_and_no_litter() {
        let (_directory, storage) = storage();
        storage.write_pair("a", &pair("one")).unwrap();
        // A directory where the new link is made: the swap is refused, after the pair was written.
        fs::create_dir(storage.path("a/.current.new")).unwrap();
        assert!(storage.write_pair("a", &pair("two")).is_err());
        assert!(storage.read_pair("a").unwrap().unwrap().1 == pair("one"));
        assert_eq!(generations(&storage.path("a")).unwrap(), [Generation(1)]);
    }
}
