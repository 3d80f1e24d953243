//! The program on disk: the new one beside the old one, tried, put in its place, and taken back.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use semver::Version;
use tokio::process::Command;

use super::error::{TrialError, UpdateError};

/// For `--version` and `check`, which take a moment.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);
/// Where install.sh puts it: the program that the units run, and that the timer updates.
const INSTALLED: &str = "/usr/local/bin/parley-relay";

/// The program that is to be replaced.
pub(super) struct Program {
    path: PathBuf,
}

/// What is kept as [`Program::previous`] when another program comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// The one that is replaced.
    This,
    /// What is kept already: the relay is not known to work with the one that is replaced.
    Before,
}

/// No other update works in that directory for as long as this is kept. The directory itself is locked: nothing
/// is left behind there.
pub(super) struct Lock {
    _directory: File,
}

/// A new program beside the old one. Dropping it removes it.
pub(super) struct Staged {
    path: PathBuf,
}

impl Program {
    /// The one at `path`, or the running one.
    pub(super) fn new(path: Option<&Path>) -> Result<Self, UpdateError> {
        let found = match path {
            Some(path) => fs::canonicalize(path),
            None => std::env::current_exe(),
        };
        let given = path.unwrap_or(Path::new("/proc/self/exe"));
        let path = found.map_err(|error| UpdateError::Installed(given.to_owned(), error))?;
        Ok(Self { path })
    }

    /// Refuses a program that dpkg put there: apt brings the next one.
    pub(super) async fn refuse_packaged(&self) -> Result<(), UpdateError> {
        let mut command = Command::new("dpkg-query");
        command
            .arg("--search")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Where there is no dpkg, there is no package either.
        match command.status().await {
            Ok(found) if found.success() => Err(UpdateError::Packaged(self.path.clone())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the one that the machine's units run.
    pub(super) fn is_installed(&self) -> bool {
        // Where /usr/local is a link, as where the system is an image, the path is the one that it leads to.
        fs::canonicalize(INSTALLED).is_ok_and(|installed| installed == self.path)
    }

    /// Where the one before is kept.
    pub(super) fn previous(&self) -> PathBuf {
        self.named("", ".previous")
    }

    /// A second name of a program that the relay is not yet known to work with. It is of no meaning where another
    /// program has come into the place since.
    pub(super) fn mark(&self) -> PathBuf {
        self.named(".", ".unfinished")
    }

    fn named(&self, before: &str, after: &str) -> PathBuf {
        let mut name = OsString::from(before);
        name.push(self.path.file_name().unwrap_or_default());
        name.push(after);
        self.path.with_file_name(name)
    }

    /// Whether an update to it was cut off: whether the relay works with it was never known.
    pub(super) fn is_unproven(&self) -> bool {
        is_same(&self.mark(), &self.path)
    }

    /// Whether an update was cut off, be it to this program or in going back to it.
    pub(super) fn has_mark(&self) -> bool {
        self.mark().exists()
    }

    /// It is known now what is to become of it.
    pub(super) fn settle(&self) {
        // One that stays has the next update look once more whether the relay answers.
        let _ = fs::remove_file(self.mark());
    }

    /// Whether the process runs a program that was at this path, and is not the one that is there now. What is
    /// something else altogether, such as a script's interpreter, is not looked into.
    pub(super) fn is_not_run_by(&self, process: u32) -> bool {
        let run = executable(process);
        // What may not be seen is not judged.
        let Ok(name) = fs::read_link(&run) else { return false };
        let name = name.as_os_str().as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        name == self.path.as_os_str().as_bytes() && !is_same(&run, &self.path)
    }

    /// Whether the process runs the one before.
    pub(super) fn previous_is_run_by(&self, process: u32) -> bool {
        is_same(&executable(process), &self.previous())
    }

    /// Whether there is another program to go back to.
    pub(super) fn has_previous(&self) -> bool {
        let previous = self.previous();
        previous.is_file() && !is_same(&previous, &self.path)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    pub(super) fn lock(&self) -> Result<Lock, UpdateError> {
        let directory = self.directory();
        let unusable = |error| UpdateError::Installed(directory.to_owned(), error);
        let opened = File::open(directory).map_err(unusable)?;
        match opened.try_lock() {
            Ok(()) => Ok(Lock { _directory: opened }),
            Err(TryLockError::WouldBlock) => Err(UpdateError::Locked(directory.to_owned())),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// What it calls itself; `None`: it does not run.
    pub(super) async fn version(&self) -> Option<Version> {
        let output = run(&self.path, "--version", None).await.ok()?;
        version(&output)
    }

    /// An empty file beside it. What an update that was killed has left there is written over.
    pub(super) fn stage(&self) -> Result<(Staged, File), UpdateError> {
        let path = self.named(".", ".new");
        let unwritable = |error| UpdateError::Write(path.clone(), error);
        make_way(&path).map_err(unwritable)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(unwritable)?;
        Ok((Staged { path }, file))
    }

    /// Closes a staged file that is whole, as a program of the same owner and mode as this one.
    pub(super) fn finish(&self, staged: &Staged, file: File) -> Result<(), UpdateError> {
        let finish = || {
            let like = fs::metadata(&self.path)?;
            let of = file.metadata()?;
            if (of.uid(), of.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            // After the change of owner, which takes special bits away. None of them is wanted.
            file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o755 | 0o500))?;
            file.sync_all()
        };
        // Closed when this returns: a file that is open for writing cannot be run.
        finish().map_err(|error| UpdateError::Write(staged.path.clone(), error))
    }

    /// Puts the staged program in the place of this one. There is a whole program at the path at every moment. Until
    /// [`Self::settle`] it is marked: whoever comes after an update that was cut off sees that it was.
    pub(super) fn replace(&self, staged: Staged, keep: Keep) -> Result<(), UpdateError> {
        if keep == Keep::This {
            let previous = self.previous();
            // Where there are no hard links, a copy.
            let kept = make_way(&previous).and_then(|()| {
                fs::hard_link(&self.path, &previous).or_else(|_| fs::copy(&self.path, &previous).map(drop))
            });
            kept.map_err(|error| UpdateError::Write(previous, error))?;
        }
        let mark = self.mark();
        // There it is not marked, and replaced all the same.
        let _ = make_way(&mark).and_then(|()| fs::hard_link(&staged.path, &mark));
        fs::rename(&staged.path, &self.path).map_err(|error| UpdateError::Write(self.path.clone(), error))?;
        self.sync();
        Ok(())
    }

    /// Puts the previous program back.
    pub(super) fn roll_back(&self) -> io::Result<()> {
        fs::rename(self.previous(), &self.path)?;
        self.sync();
        Ok(())
    }

    /// Has the names reach the disk. Where that fails, a power cut may bring the other program back: a whole one too.
    fn sync(&self) {
        let _ = File::open(self.directory()).and_then(|directory| directory.sync_all());
    }
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// That it runs, is the version that it should be, and takes the configuration.
    pub(super) async fn try_out(&self, expected: &Version, config: Option<&Path>) -> Result<(), TrialError> {
        let output = run(&self.path, "--version", None).await?;
        succeeded("--version", &output)?;
        if version(&output).as_ref() != Some(expected) {
            let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            return Err(TrialError::Version { expected: expected.clone(), told });
        }
        if let Some(config) = config {
            succeeded("check", &run(&self.path, "check", Some(config)).await?)?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is not there any more when it was put in its place.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what is at the path, if anything is.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The program that a process runs: whoever may see it sees it though it has no name any more.
fn executable(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/exe"))
}

/// Whether what the process runs is for others to see.
pub(super) fn is_hidden(process: u32) -> bool {
    fs::read_link(executable(process)).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Whether both are there, and one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some_and(|found| Some(found) == identity(other))
}

/// What `program` prints as the unit of that name; `None`: it has none.
pub(super) async fn unit(program: &Path, name: &str) -> Option<String> {
    let output = run(program, "unit", Some(Path::new(name))).await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.is_empty()).then_some(text)
}

async fn run(program: &Path, argument: &'static str, file: Option<&Path>) -> Result<Output, TrialError> {
    let mut command = Command::new(program);
    command.arg(argument).args(file).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TRIAL_LIMIT, command.output()).await {
        Ok(output) => output.map_err(TrialError::Start),
        Err(_) => Err(TrialError::Hangs(argument)),
    }
}

fn succeeded(argument: &'static str, output: &Output) -> Result<(), TrialError> {
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(TrialError::Fails { argument, status: output.status, told })
}

/// The last word of what `--version` prints.
fn version(output: &Output) -> Option<Version> {
    let text = std::str::from_utf8(&output.stdout).ok()?;
    Version::parse(text.split_whitespace().last()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(mode: u32) -> (tempfile::TempDir, Program) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parley-relay");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let program = Program::new(Some(&path)).unwrap();
        (directory, program)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_program_is_replaced_and_rolled_back_and_nothing_else_is_left() {
        let (directory, program) = program(0o4755);
        let (staged, file) = program.stage().unwrap();
        fs::write(staged.path(), "new").unwrap();
        program.finish(&staged, file).unwrap();
        program.replace(staged, Keep::This).unwrap();
        assert_eq!(fs::read(&program.path).unwrap(), b"new");
        assert_eq!(fs::read(program.previous()).unwrap(), b"old");
        assert!(program.is_unproven());
        program.settle();
        assert_eq!(names(directory.path()), ["parley-relay", "parley-relay.previous"]);
        let mode = fs::metadata(&program.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        program.roll_back().unwrap();
        assert_eq!(fs::read(&program.path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["parley-relay"]);
    }

    #[test]
    fn until_it_is_proven_a_program_is_marked_and_is_not_what_is_gone_back_to() {
        let (directory, program) = program(0o755);
        for text in ["new", "newer"] {
            let (staged, file) = program.stage().unwrap();
            fs::write(staged.path(), text).unwrap();
            program.finish(&staged, file).unwrap();
            let keep = if program.is_unproven() { Keep::Before } else { Keep::This };
            program.replace(staged, keep).unwrap();
            assert!(program.is_unproven() && program.has_previous());
        }
        assert_eq!(fs::read(program.previous()).unwrap(), b"old");
        // What somebody else puts there is none of ours.
        fs::write(directory.path().join("other"), "other").unwrap();
        fs::rename(directory.path().join("other"), &program.path).unwrap();
        assert!(!program.is_unproven());
        program.roll_back().unwrap();
        assert!(!program.is_unproven() && !program.has_previous());
    }

    #[test]
    fn a_process_whose_program_was_replaced_is_known_by_it() {
        let (_directory, program) = program(0o755);
        // By a process that ends: none of ours has it open for writing when it is started.
        assert!(
            std::process::Command::new("cp").arg("/bin/sleep").arg(&program.path).status().unwrap().success()
        );
        let mut process = std::process::Command::new(&program.path).arg("60").spawn().unwrap();
        let is_run = || (program.is_not_run_by(process.id()), program.previous_is_run_by(process.id()));
        let before = is_run();
        let (staged, file) = program.stage().unwrap();
        program.finish(&staged, file).unwrap();
        program.replace(staged, Keep::This).unwrap();
        let replaced = is_run();
        program.roll_back().unwrap();
        let back = is_run();
        // One that runs something else altogether.
        let other = program.is_not_run_by(std::process::id());
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!((before, replaced, back, other), ((false, false), (true, true), (false, false), false));
    }

    #[test]
    fn what_is_staged_and_not_used_is_removed_and_a_leftover_is_written_over() {
        let (directory, program) = program(0o755);
        let (staged, _) = program.stage().unwrap();
        std::mem::forget(staged);
        assert_eq!(names(directory.path()).len(), 2);
        drop(program.stage().unwrap());
        assert_eq!(names(directory.path()), ["parley-relay"]);
    }

    #[test]
    fn two_updates_do_not_work_in_one_directory() {
        let (_directory, program) = program(0o755);
        let lock = program.lock().unwrap();
        assert!(matches!(program.lock(), Err(UpdateError::Locked(_))));
        drop(lock);
        assert!(program.lock().is_ok());
    }
}
