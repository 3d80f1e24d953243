//! The unit files on disk, which belong to a version of the program as its flags do.
//!
//! One that nobody has edited becomes what the new program prints; one that somebody has edited stays. The manifest's
//! checksum tells which is which, and in an install that has none, what the old program prints. Drop-ins are the
//! machine's own, but for the one that install.sh writes for sockets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    manifest::Manifest,
    program,
    release::Sha256,
    service::{self, How},
};
use crate::storage;

/// Where install.sh puts them.
const DIRECTORY: &str = "/etc/systemd/system";
const SERVICE: &str = "parley-relay.service";
/// Those that install.sh writes.
const NAMES: [&str; 3] = [SERVICE, "parley-relay-update.service", "parley-relay-update.timer"];
/// Those that it writes with `--sockets yes`. What is not in the manifest was set up by hand.
const SOCKETS: [&str; 2] = ["parley-relay-http.socket", "parley-relay.socket"];
const SOCKET_DROP_IN: &str = "parley-relay-socket.conf";

/// Everybody may read units.
const MODE: u32 = 0o644;

/// The units that are to change with the program.
#[derive(Default)]
pub(super) struct Units {
    changes: Vec<Change>,
    /// The checksums of those that are already what the new program prints.
    current: Vec<(&'static str, Sha256)>,
    /// Those that somebody has edited, and of which the new program has another.
    edited: Vec<&'static str>,
    /// Those that are current, and that systemd has not read.
    unread: Vec<&'static str>,
    manifest: Option<Manifest>,
    /// Whether the manifest is another now.
    recorded: bool,
}

struct Change {
    name: &'static str,
    path: PathBuf,
    old: String,
    new: String,
    /// Whether the manifest has the checksum of the old one.
    is_known: bool,
}

/// What becomes of a unit on disk.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    /// It is what the new program prints.
    Current,
    /// It is somebody's own, and the new program has nothing to tell.
    Stays,
    /// It is somebody's own, and the new program has another than what was edited.
    Edited,
    Renewed,
}

impl Fate {
    /// `written`: how it was last written by us; where that is not known, `old` is what the old program prints.
    fn of(on_disk: &str, written: Option<Sha256>, old: Option<&str>, new: &str) -> Self {
        if on_disk == new {
            return Self::Current;
        }
        let sum = |text: &str| Sha256::digest(text.as_bytes());
        let (is_ours, is_same) = match (written, old) {
            (Some(written), _) => (sum(on_disk) == written, sum(new) == written),
            (None, Some(old)) => (on_disk == old, old == new),
            // A program that knows no such unit says nothing about it.
            (None, None) => return Self::Stays,
        };
        match (is_ours, is_same) {
            (true, _) => Self::Renewed,
            (false, true) => Self::Stays,
            (false, false) => Self::Edited,
        }
    }
}

impl Units {
    /// What is to be done when the program `new` replaces `old`.
    pub(super) async fn of(old: &Path, new: &Path) -> Self {
        let mut units = Self { manifest: Manifest::read(), ..Self::default() };
        for name in NAMES.into_iter().chain(SOCKETS).chain([SOCKET_DROP_IN]) {
            let written = units.manifest.as_ref().and_then(|manifest| manifest.sum(name));
            if written.is_none() && !NAMES.contains(&name) {
                continue;
            }
            let path = path(name);
            let Ok(on_disk) = fs::read_to_string(&path) else { continue };
            let Some(new) = program::unit(new, name).await else { continue };
            let new = listening_as(&new, &on_disk);
            let old = if written.is_none() { program::unit(old, name).await } else { None };
            match Fate::of(&on_disk, written, old.as_deref(), &new) {
                Fate::Current => units.current.push((name, Sha256::digest(new.as_bytes()))),
                Fate::Stays => {}
                Fate::Edited => units.edited.push(name),
                Fate::Renewed => {
                    let is_known = written.is_some();
                    units.changes.push(Change { name, path, old: on_disk, new, is_known });
                }
            }
        }
        units
    }

    /// Tells of each unit that stays though the new program has another.
    pub(super) fn tell_edited(&self) {
        for name in &self.edited {
            say!(
                "{} has been edited and stays; the new version has another: parley-relay unit {name}",
                path(name).display()
            );
        }
    }

    /// Looks for those that an update had written when it was cut off, and had not yet told systemd of.
    pub(super) async fn find_unread(&mut self) {
        // A drop-in is its unit's.
        for (name, _) in self.current.iter().filter(|(name, _)| *name != SOCKET_DROP_IN) {
            if service::is_unread(name).await {
                self.unread.push(name);
            }
        }
    }

    /// Whether none is to change.
    pub(super) fn are_current(&self) -> bool {
        self.changes.is_empty() && self.unread.is_empty()
    }

    /// Writes the new ones and has systemd read them. One that cannot be written stays, which is told.
    pub(super) async fn renew(&mut self) {
        self.changes.retain(|Change { name, path, new, .. }| {
            let written = storage::replace(path, MODE, new.as_bytes());
            if let Err(error) = &written {
                let path = path.display();
                say!(
                    "{path} cannot be written and stays: {error}; the new version has another: parley-relay unit {name}"
                );
            }
            written.is_ok()
        });
        self.record();
        self.reload().await;
    }

    /// Writes down how the units are now. Where that fails, those go back that would count as edited from then on.
    fn record(&mut self) {
        let Some(manifest) = &self.manifest else { return };
        let changed = self.changes.iter().map(|change| (change.name, Sha256::digest(change.new.as_bytes())));
        let sums: Vec<_> = self.current.iter().copied().chain(changed).collect();
        match manifest.record(&sums) {
            Ok(recorded) => self.recorded = recorded,
            Err(error) => {
                say!("how the units were written cannot be written down: {error}");
                self.changes.retain(|change| {
                    if change.is_known {
                        change.put_back();
                    }
                    !change.is_known
                });
            }
        }
    }

    /// Puts the old ones back.
    pub(super) async fn take_back(&self) {
        for change in &self.changes {
            change.put_back();
        }
        if let (Some(manifest), true) = (&self.manifest, self.recorded) {
            manifest.restore();
        }
        self.reload().await;
    }

    /// A handover keeps what the old unit gave the process; only a start shows that the new unit works.
    pub(super) fn how(&self) -> How {
        let changes = |name: &str| {
            self.changes
                .iter()
                .map(|change| change.name)
                .chain(self.unread.iter().copied())
                .any(|new| new == name)
        };
        let sockets: Vec<_> = SOCKETS.into_iter().filter(|name| changes(name)).collect();
        if changes(SERVICE) || changes(SOCKET_DROP_IN) || !sockets.is_empty() {
            How::Anew { sockets }
        } else {
            How::Handover
        }
    }

    async fn reload(&self) {
        if self.are_current() {
            return;
        }
        if let Err(error) = service::reload_units().await {
            say!("systemd has not read the units anew: {error}");
        }
    }
}

/// Where install.sh puts a unit.
fn path(name: &str) -> PathBuf {
    let directory = Path::new(DIRECTORY);
    if name == SOCKET_DROP_IN {
        directory.join(format!("{SERVICE}.d/10-socket.conf"))
    } else {
        directory.join(name)
    }
}

/// The new unit with the ports of the one on disk, which are the machine's.
fn listening_as(new: &str, on_disk: &str) -> String {
    let is_port = |line: &&str| line.starts_with("ListenStream=");
    let Some(port) = on_disk.lines().find(is_port) else { return new.to_owned() };
    let lines = new.lines().map(|line| if is_port(&line) { port } else { line });
    lines.flat_map(|line| [line, "\n"]).collect()
}

impl Change {
    fn put_back(&self) {
        if let Err(error) = storage::replace(&self.path, MODE, self.old.as_bytes()) {
            say!("{} cannot be put back: {error}; the previous program prints it", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_renewed_only_where_nobody_has_edited_it() {
        let fate = |on_disk, old, new| Fate::of(on_disk, None, Some(old), new);
        assert_eq!(fate("old", "old", "new"), Fate::Renewed);
        assert_eq!(fate("mine", "old", "new"), Fate::Edited);
        assert_eq!(fate("mine", "old", "old"), Fate::Stays);
        assert_eq!(fate("new", "old", "new"), Fate::Current);
        assert_eq!(Fate::of("mine", None, None, "new"), Fate::Stays);
    }

    #[test]
    fn a_new_socket_has_the_port_of_the_machine() {
        let new = "[Socket]\nListenStream=443\nBacklog=2\n";
        let on_disk = "[Socket]\nListenStream=127.0.0.1:8443\nBacklog=1\n";
        assert_eq!(listening_as(new, on_disk), "[Socket]\nListenStream=127.0.0.1:8443\nBacklog=2\n");
        assert_eq!(listening_as("[Service]\n", "[Service]\nUser=a\n"), "[Service]\n");
    }

    #[test]
    fn a_unit_that_we_wrote_long_ago_is_renewed_whatever_the_old_program_prints() {
        let fate = |on_disk: &str, new| Fate::of(on_disk, Some(Sha256::digest(b"older")), Some("old"), new);
        assert_eq!(fate("older", "new"), Fate::Renewed);
        assert_eq!(fate("older", "old"), Fate::Renewed);
        assert_eq!(fate("new", "new"), Fate::Current);
        assert_eq!(fate("mine", "new"), Fate::Edited);
        assert_eq!(fate("mine", "older"), Fate::Stays);
        // What the old program prints is somebody's own too, if we did not write it.
        assert_eq!(fate("old", "new"), Fate::Edited);
    }
}
