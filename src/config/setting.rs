//! A value that may have been given, on the command line or in a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::{Faults, Reason},
    source::Place,
};

/// A key's value, and where it was given.
#[derive(Debug, Default)]
pub(crate) enum Setting<T> {
    #[default]
    Absent,
    /// Given, but a fault that has been noted: no other fault follows from it.
    Faulty,
    Given(T, Place),
}

impl<T> Setting<T> {
    /// The value, or `default` where there is none.
    pub(crate) fn or(self, default: T) -> T {
        self.given().unwrap_or(default)
    }

    /// The value, or the type's own default.
    pub(crate) fn or_default(self) -> T
    where
        T: Default,
    {
        self.given().unwrap_or_default()
    }

    /// The value, if there is a good one.
    pub(crate) fn given(self) -> Option<T> {
        match self {
            Self::Given(value, _) => Some(value),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// The same, without taking it out.
    pub(crate) fn as_given(&self) -> Option<&T> {
        match self {
            Self::Given(value, _) => Some(value),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// The setting of what `change` makes of a good value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Setting<U> {
        match self {
            Self::Absent => Setting::Absent,
            Self::Faulty => Setting::Faulty,
            Self::Given(value, place) => Setting::Given(change(value), place),
        }
    }

    /// Whether nobody gave it, not even wrongly.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether it was given, but wrongly.
    pub(crate) fn is_faulty(&self) -> bool {
        matches!(self, Self::Faulty)
    }

    /// Where a good value was given.
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            Self::Given(_, place) => Some(place.clone()),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// Takes `other` where nothing was given: what was given first wins.
    pub(crate) fn fill(&mut self, other: Self) {
        if self.is_absent() {
            *self = other;
        }
    }
}

impl Setting<PathBuf> {
    /// The file that `key` names, when it can be read; notes a fault when it cannot.
    pub(crate) fn readable(&self, key: &'static str, faults: &mut Faults) -> Option<&Path> {
        let Self::Given(path, place) = self else {
            return None;
        };
        let open = || -> io::Result<()> {
            // A directory can be opened, and the opening of a FIFO may wait for ever.
            if !fs::metadata(path)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
            }
            fs::File::open(path).map(drop)
        };
        match open() {
            Ok(()) => Some(path),
            Err(error) => {
                faults.add(key, Reason::NamedFile(error), Some(place.clone()));
                None
            }
        }
    }
}
