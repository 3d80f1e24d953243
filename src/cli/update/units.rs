//! The unit files on disk, which belong to a version of the program as its flags do.
//!
//! One that nobody has edited becomes what the new program prints; one that somebody has edited stays. Drop-ins are
//! the machine's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    program,
    service::{self, How},
};
use crate::storage;

/// Where install.sh puts them.
const DIRECTORY: &str = "/etc/systemd/system";
const SERVICE: &str = "parley-relay.service";
/// Those that install.sh writes.
const NAMES: [&str; 3] = [SERVICE, "parley-relay-update.service", "parley-relay-update.timer"];

/// Everybody may read units.
const MODE: u32 = 0o644;

/// The units that are to change with the program.
#[derive(Default)]
pub(super) struct Units {
    changes: Vec<Change>,
}

struct Change {
    path: PathBuf,
    old: String,
    new: String,
}

/// What becomes of a unit on disk.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    Stays,
    /// It is not what the old program would have written, and the new one would write something else again.
    Edited,
    Renewed,
}

impl Fate {
    fn of(on_disk: &str, old: &str, new: &str) -> Self {
        if old == new || on_disk == new {
            Self::Stays
        } else if on_disk == old {
            Self::Renewed
        } else {
            Self::Edited
        }
    }
}

impl Units {
    /// What is to be done when the program `new` replaces `old`. Tells of each unit that stays though the new program
    /// has another.
    pub(super) async fn of(old: &Path, new: &Path) -> Self {
        let mut changes = Vec::new();
        for name in NAMES {
            let path = Path::new(DIRECTORY).join(name);
            let Ok(on_disk) = fs::read_to_string(&path) else { continue };
            // A program that knows no such unit says nothing about it.
            let Some(old) = program::unit(old, name).await else { continue };
            let Some(new) = program::unit(new, name).await else { continue };
            match Fate::of(&on_disk, &old, &new) {
                Fate::Stays => {}
                Fate::Edited => eprintln!(
                    "{} has been edited and stays; the new version has another: parley-relay unit {name}",
                    path.display()
                ),
                Fate::Renewed => changes.push(Change { path, old, new }),
            }
        }
        Self { changes }
    }

    /// Writes the new ones and has systemd read them. One that cannot be written stays, which is told.
    pub(super) async fn renew(&mut self) {
        self.changes.retain(|Change { path, new, .. }| match storage::replace(path, MODE, new.as_bytes()) {
            Ok(()) => true,
            Err(error) => {
                let (path, name) = (path.display(), path.file_name().unwrap_or_default().display());
                eprintln!(
                    "{path} cannot be written and stays: {error}; the new version has another: parley-relay unit {name}"
                );
                false
            }
        });
        self.reload().await;
    }

    /// Puts the old ones back.
    pub(super) async fn take_back(&self) {
        for Change { path, old, .. } in &self.changes {
            if let Err(error) = storage::replace(path, MODE, old.as_bytes()) {
                eprintln!("{} cannot be put back: {error}; the previous program prints it", path.display());
            }
        }
        self.reload().await;
    }

    /// A handover keeps what the old unit gave the process; only a start shows that the new unit works.
    pub(super) fn how(&self) -> How {
        if self.changes.iter().any(|change| change.path.ends_with(SERVICE)) {
            How::Anew
        } else {
            How::Handover
        }
    }

    async fn reload(&self) {
        if self.changes.is_empty() {
            return;
        }
        if let Err(error) = service::reload_units().await {
            eprintln!("systemd has not read the units anew: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_renewed_only_where_nobody_has_edited_it() {
        assert_eq!(Fate::of("old", "old", "new"), Fate::Renewed);
        assert_eq!(Fate::of("mine", "old", "new"), Fate::Edited);
        assert_eq!(Fate::of("mine", "old", "old"), Fate::Stays);
        assert_eq!(Fate::of("new", "old", "new"), Fate::Stays);
    }
}
