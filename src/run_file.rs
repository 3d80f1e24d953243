//! Which process serves, for `parley-relay upgrade`: a small file beside the control socket.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::storage::{Storage, StorageError};

const NAME: &str = "relay.json";

/// What the file says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RunningRelay {
    pub(crate) pid: u32,
    /// When the process started, as the kernel counts: another one may have the same id by now.
    started: u64,
    /// How many upgrades were refused since then, and why the last one was.
    pub(crate) refused: u32,
    pub(crate) reason: String,
}

/// The file of this process. It is removed when this is dropped, unless another process has it by then.
pub(crate) struct RunFile {
    directory: Storage,
    state: RunningRelay,
    owner: Owner,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    This,
    /// It writes the file when it likes: it must not be removed at that very moment.
    Successor,
}

impl RunFile {
    /// In `directory`; nothing is written yet.
    pub(crate) fn new(directory: &Path) -> Self {
        let pid = std::process::id();
        let state =
            RunningRelay { pid, started: started(pid).unwrap_or(0), refused: 0, reason: String::new() };
        Self { directory: Storage::at(directory), state, owner: Owner::This }
    }

    /// Says that this process serves.
    pub(crate) fn write(&mut self) {
        // A struct of numbers and a string is always JSON.
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        if let Err(error) = self.directory.write(NAME, &text) {
            tracing::warn!("`parley-relay upgrade` will not find this process: {error}");
        }
    }

    /// Says that an upgrade was refused.
    pub(crate) fn refused(&mut self, reason: &str) {
        self.state.refused += 1;
        reason.clone_into(&mut self.state.reason);
        self.write();
    }
}

impl RunFile {
    /// Leaves the file to the process that takes over.
    pub(crate) fn leave(&mut self) {
        self.owner = Owner::Successor;
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if self.owner == Owner::This
            && let Ok(Some(found)) = read(self.directory.path("").as_path())
            && found.pid == self.state.pid
        {
            // What stays is the file of a process that is gone, and known to be.
            self.directory.remove(NAME).ok();
        }
    }
}

/// The relay that serves by the file in `directory`, if there is one and it lives.
pub(crate) fn read(directory: &Path) -> Result<Option<RunningRelay>, StorageError> {
    let text = Storage::at(directory).read(NAME)?;
    let found: Option<RunningRelay> = text.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(found.filter(|found| started(found.pid) == Some(found.started)))
}

/// When a process started, in ticks since the machine did; `None`: there is none, or it has ended.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses, and may hold blanks and parentheses itself.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    if fields.next() == Some("Z") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_while_it_serves_and_no_other_is_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let found = || read(directory.path()).unwrap();
        assert!(found().is_none());
        let mut file = RunFile::new(directory.path());
        file.write();
        assert_eq!(found().unwrap().pid, std::process::id());
        file.refused("why");
        assert_eq!((found().unwrap().refused, &*found().unwrap().reason), (1, "why"));
        // Another process that has got the same id.
        file.state.started += 1;
        file.write();
        assert!(found().is_none());
        file.state.started -= 1;
        file.write();
        drop(file);
        assert!(found().is_none() && !directory.path().join(NAME).exists());
    }

    #[test]
    fn the_file_of_the_next_process_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RunFile::new(directory.path());
        file.write();
        let mut next = RunFile::new(directory.path());
        (next.state.pid, next.state.started) = (1, started(1).unwrap());
        next.write();
        drop(file);
        assert_eq!(read(directory.path()).unwrap().unwrap().pid, 1);
        std::mem::forget(next);
    }
}
