//! `upgrade`: the binary on disk takes over from the process that runs.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{EXIT_INTERNAL, EXIT_TRY_AGAIN, EXIT_UNAVAILABLE, status::Meant};
use crate::{
    config::Environment,
    run_file::{self, RunningRelay},
};

/// Longer than the relay itself gives the new process.
const OUTCOME_WITHIN: Duration = Duration::from_secs(40);
/// Between the old process's end and the new one's word.
const WORD_WITHIN: Duration = Duration::from_secs(5);

/// What `upgrade` can be told.
#[derive(clap::Args, Clone)]
pub(crate) struct UpgradeArgs {
    #[arg(long, value_name = "FILE", help = super::CONFIG_HELP)]
    config: Option<PathBuf>,

    /// Where the relay keeps keys and certificates
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    storage: Option<PathBuf>,
}

/// Why no other process has taken over.
#[derive(Debug)]
enum NoUpgrade {
    /// The process that runs said why, and goes on: `update` relies on that.
    Refused(String),
    /// It is gone, and no other has come.
    Ended(u32),
    Silent(u32),
}

/// Asks the process that runs to let the binary on disk take over, and tells what came of it.
pub(crate) fn run(arguments: &UpgradeArgs) -> ExitCode {
    let (config, storage) = (arguments.config.as_deref(), arguments.storage.as_deref());
    // Where the relay says that it runs: beside its control socket.
    let directories = match Meant::new(config, storage, &Environment::of_process()) {
        Ok(meant) => meant.directories,
        Err(code) => return code,
    };
    let Some((directory, before)) =
        directories.iter().find_map(|directory| Some((directory, find(directory)?)))
    else {
        let looked: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        eprintln!(
            "error: no relay runs that this user may see (looked in {}); give the --config or --storage that it \
             runs with, or send SIGUSR2 to its process",
            looked.join(", ")
        );
        return EXIT_UNAVAILABLE.into();
    };
    if let Err(error) = ask(&before) {
        eprintln!("error: process {} cannot be asked: {error}", before.pid);
        return EXIT_UNAVAILABLE.into();
    }
    match outcome(directory, &before) {
        Ok(pid) => super::answer(&format!(
            "process {pid} has taken over; {} ends when what is open on it has ended\n",
            before.pid
        )),
        Err(reason) => {
            eprintln!("error: no upgrade: {reason}");
            reason.exit_code().into()
        }
    }
}

fn find(directory: &Path) -> Option<RunningRelay> {
    // What may not be read is not ours to upgrade.
    run_file::read(directory).ok().flatten()
}

fn ask(relay: &RunningRelay) -> rustix::io::Result<()> {
    let pid = i32::try_from(relay.pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    kill_process(pid, Signal::USR2)
}

/// The id of the process that has taken over, or why none has.
fn outcome(directory: &Path, before: &RunningRelay) -> Result<u32, NoUpgrade> {
    let until = Instant::now() + OUTCOME_WITHIN;
    let mut ended: Option<Instant> = None;
    while Instant::now() < until {
        match find(directory) {
            Some(now) if now.pid != before.pid => return Ok(now.pid),
            Some(now) if now.refused != before.refused => return Err(NoUpgrade::Refused(now.reason)),
            Some(_) => {}
            None if ended.get_or_insert_with(Instant::now).elapsed() < WORD_WITHIN => {}
            None => return Err(NoUpgrade::Ended(before.pid)),
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(NoUpgrade::Silent(before.pid))
}

impl NoUpgrade {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => EXIT_TRY_AGAIN,
            Self::Ended(_) | Self::Silent(_) => EXIT_INTERNAL,
        }
    }
}

impl fmt::Display for NoUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It is shown, and not obeyed: it may come from another user.
            Self::Refused(reason) => f.write_str(&reason.replace(|c: char| c.is_control() && c != '\n', " ")),
            Self::Ended(pid) => write!(f, "process {pid} has ended"),
            Self::Silent(pid) => write!(f, "process {pid} does not answer; its log may say why"),
        }
    }
}

impl std::error::Error for NoUpgrade {}
