//! Which process serves, for `parley-relay upgrade`: a small file beside the control socket.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    process::geteuid,
};
use serde::{Deserialize, Serialize};

use crate::{
    storage::{Storage, StorageError},
    tls::Predecessor,
};

const NAME: &str = "relay.json";
/// A reason is all the faults of a config at most.
const LONGEST: u64 = 1 << 20;

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
    before: Predecessor,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    This,
    /// It was there first, and lives.
    Another,
    /// It writes the file when it likes: it must not be removed at that very moment.
    Successor,
}

impl RunFile {
    /// In `directory`, in place of that of the process `before` if there is one; nothing is written yet.
    pub(crate) fn new(directory: &Path, before: Predecessor) -> Self {
        let pid = std::process::id();
        let state =
            RunningRelay { pid, started: started(pid).unwrap_or(0), refused: 0, reason: String::new() };
        Self { directory: Storage::at(directory), state, owner: Owner::This, before }
    }

    /// Says that this process serves, unless another one does, which did not hand over to it.
    pub(crate) fn write(&mut self) {
        let found = read(self.directory.path("").as_path()).ok().flatten();
        if let Some(other) = found.filter(|found| found.pid != self.state.pid)
            && self.before == Predecessor::None
        {
            self.owner = Owner::Another;
            tracing::warn!(
                "another relay, process {}, has this storage: `parley-relay upgrade` and `status` mean that one; \
                 give each its own directory with --storage DIR",
                other.pid
            );
            return;
        }
        self.owner = Owner::This;
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
///
/// SECURITY: the file is the relay's own user's, and whoever reads it may be root and signal the process that it
/// names. So it is nothing that hangs or leads elsewhere, and root believes it of a process of its owner alone.
pub(crate) fn read(directory: &Path) -> Result<Option<RunningRelay>, StorageError> {
    let path = directory.join(NAME);
    let (text, owner) = match contents(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StorageError::Read { file: path, source }),
    };
    let found: Option<RunningRelay> = serde_json::from_slice(&text).ok();
    Ok(found.filter(|found| {
        started(found.pid) == Some(found.started) && (!geteuid().is_root() || user(found.pid) == Some(owner))
    }))
}

/// What is in a file, and whose it is.
fn contents(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok((text, metadata.uid()))
}

/// The user that a process acts as. Not the owner of its directory in /proc: that is root where a binary has
/// capabilities of its own.
fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
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
        let mut file = RunFile::new(directory.path(), Predecessor::Running);
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
    fn the_file_of_a_relay_that_lives_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        // Another process, which is there for as long as this one.
        let mut first = RunFile::new(directory.path(), Predecessor::None);
        (first.state.pid, first.state.started) = (1, started(1).unwrap());
        first.write();
        let named = || read(directory.path()).unwrap().map(|found| found.pid);
        let mut second = RunFile::new(directory.path(), Predecessor::None);
        second.write();
        second.refused("why");
        assert_eq!(named(), Some(1));
        drop(second);
        assert_eq!(named(), Some(1));
        let mut next = RunFile::new(directory.path(), Predecessor::Running);
        next.write();
        assert_eq!(named(), Some(std::process::id()));
        std::mem::forget(first);
    }

    #[test]
    fn the_file_of_the_next_process_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RunFile::new(directory.path(), Predecessor::Running);
        file.write();
        let mut next = RunFile::new(directory.path(), Predecessor::Running);
        (next.state.pid, next.state.started) = (1, started(1).unwrap());
        next.write();
        drop(file);
        assert_eq!(read(directory.path()).unwrap().unwrap().pid, 1);
        std::mem::forget(next);
    }

    /// A directory with the file of this process in it.
    fn written() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RunFile::new(directory.path(), Predecessor::Running);
        file.write();
        file.leave();
        directory
    }

    #[test]
    fn what_is_no_plain_file_of_a_fair_size_is_not_read() {
        let directory = written();
        let path = directory.path().join(NAME);
        let refused = || matches!(read(directory.path()), Err(StorageError::Read { .. }));
        assert!(!refused());
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(refused(), "a link");
        fs::remove_file(&path).unwrap();
        // Nobody writes into it: to open it for reading would take for ever.
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refused(), "a FIFO");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused(), "a directory");
        fs::remove_dir(&path).unwrap();
        let mut long = fs::read(&elsewhere).unwrap();
        long.resize(LONGEST as usize + 1, b' ');
        fs::write(&path, &long).unwrap();
        assert!(refused(), "a long one");
        fs::write(&path, &long[..LONGEST as usize]).unwrap();
        assert!(read(directory.path()).unwrap().is_some());
    }

    #[test]
    fn root_believes_a_file_only_of_a_process_of_its_owner() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let directory = written();
        assert!(read(directory.path()).unwrap().is_some());
        std::os::unix::fs::chown(directory.path().join(NAME), Some(65534), None).unwrap();
        assert!(read(directory.path()).unwrap().is_none());
        // Others can signal their own processes alone, whatever they read.
        let path = directory.path().to_owned();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let read = std::thread::spawn(move || {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
            read(&path).unwrap()
        });
        assert!(read.join().unwrap().is_some());
    }
}
