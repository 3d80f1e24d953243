//! The config: whether the relay that runs has loaded it as it is now.

use std::{
    fs,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::Finding;
use crate::{
    cli::status::{self, Meant},
    config::sha256,
    control::status::Configured,
    moment::moment,
};

/// Nothing, where no relay tells of this file: it does not run, is of an older version, or has another config.
pub(super) fn look(file: &Path, meant: &Meant) -> Vec<Finding> {
    let Ok((status, _)) = status::ask(meant) else { return Vec::new() };
    let Configured { loaded, files } = status.config;
    let is_meant = |path: &str| match (fs::canonicalize(path), fs::canonicalize(file)) {
        (Ok(path), Ok(file)) => path == file,
        (Err(_), _) | (_, Err(_)) => false,
    };
    if !files.first().is_some_and(|first| is_meant(&first.path)) {
        return Vec::new();
    }
    let changed: Vec<_> = files
        .iter()
        // What cannot be read is told elsewhere.
        .filter(|then| fs::read(&then.path).is_ok_and(|now| sha256(&now) != then.sha256))
        .map(|then| PathBuf::from(&then.path))
        .collect();
    if changed.is_empty() {
        let text = format!("the relay runs with {} as it is now", file.display());
        return vec![Finding::well("config", text)];
    }
    let loaded = loaded.map(|at| format!(" at {}", moment(at))).unwrap_or_default();
    let not_loaded = |path: PathBuf| {
        let modified = fs::metadata(&path).and_then(|about| about.modified());
        let when = modified.map(|at| format!(" at {}", moment(OffsetDateTime::from(at)))).unwrap_or_default();
        Finding::doubt(
            "config",
            format_args!("{} was changed{when}; the relay runs with what it loaded{loaded}", path.display()),
            "systemctl reload parley-relay loads it; if that was refused, journalctl -u parley-relay tells why",
        )
    };
    changed.into_iter().map(not_loaded).collect()
}
