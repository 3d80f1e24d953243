//! What install.sh has written down of its install: here, the checksums of the units as they were last written by it
//! or by an update.

use std::{fmt::Write as _, fs, io, path::Path};

use super::release::Sha256;
use crate::storage;

const FILE: &str = "/etc/parley-relay/installed";
/// As install.sh has it.
const MODE: u32 = 0o644;

/// The manifest, as it is on disk.
pub(super) struct Manifest {
    text: String,
}

impl Manifest {
    /// `None`: install.sh has installed nothing here.
    pub(super) fn read() -> Option<Self> {
        fs::read_to_string(FILE).ok().map(|text| Self { text })
    }

    /// The unit's checksum; `None`: an older version wrote no such thing.
    pub(super) fn sum(&self, unit: &str) -> Option<Sha256> {
        let mut lines = self.text.lines();
        lines.find_map(|line| {
            Sha256::parse(line.strip_prefix("unit ")?.strip_prefix(unit)?.strip_prefix(' ')?)
        })
    }

    /// Writes these checksums down, and leaves all else as it is. `Ok(false)`: they are there already.
    pub(super) fn record(&self, sums: &[(&str, Sha256)]) -> io::Result<bool> {
        let text = self.with(sums);
        if text == self.text {
            return Ok(false);
        }
        storage::replace(Path::new(FILE), MODE, text.as_bytes()).map(|()| true)
    }

    /// Puts back what was there when this was read.
    pub(super) fn restore(&self) {
        if let Err(error) = storage::replace(Path::new(FILE), MODE, self.text.as_bytes()) {
            say!("{FILE} cannot be put back: {error}; units that were put back count as edited");
        }
    }

    fn with(&self, sums: &[(&str, Sha256)]) -> String {
        let is_of = |line: &str, unit: &str| line.split(' ').take(2).eq(["unit", unit]);
        let new = |line: &str| sums.iter().find(|(unit, _)| is_of(line, unit));
        let mut text = String::new();
        for line in self.text.lines() {
            // Writing to a String does not fail.
            let _ = match new(line) {
                Some((unit, sum)) => writeln!(text, "unit {unit} {sum}"),
                None => writeln!(text, "{line}"),
            };
        }
        for (unit, sum) in sums.iter().filter(|(unit, _)| !self.text.lines().any(|line| is_of(line, unit))) {
            let _ = writeln!(text, "unit {unit} {sum}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_units_are_written_down_and_all_else_stays() {
        let (old, new) = (Sha256::digest(b"old"), Sha256::digest(b"new"));
        let text = format!("# A comment\nupdates=off\nunit a.service {old}\nfile /a b\n");
        let manifest = Manifest { text };
        assert_eq!(manifest.sum("a.service"), Some(old));
        for none in ["a", "a.timer", "file"] {
            assert_eq!(manifest.sum(none), None);
        }
        let text = manifest.with(&[("a.service", new), ("a.timer", old)]);
        let wanted =
            format!("# A comment\nupdates=off\nunit a.service {new}\nfile /a b\nunit a.timer {old}\n");
        assert_eq!(text, wanted);
        assert_eq!(Manifest { text: wanted.clone() }.with(&[("a.service", new)]), wanted);
        assert_eq!(Manifest { text: "unit a.service 12\n".into() }.sum("a.service"), None);
    }
}
