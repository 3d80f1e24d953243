//! The relay that runs: restarted with the new program, and watched until it is well.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::Command;

use super::error::ServiceError;
use crate::cli::{
    EXIT_TRY_AGAIN,
    health::{self, Target},
};

/// The unit that install.sh and the package make.
const UNIT: &str = "parley-relay";
/// A drain takes 30 s by default.
const RESTART_LIMIT: Duration = Duration::from_secs(180);
/// How long it has to stay well: one that dies of its first request has answered once.
const STAYS_WELL: Duration = Duration::from_secs(3);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Longer than the unit's TimeoutStopSec.
const STOPS_WITHIN: Duration = Duration::from_secs(60);
/// For what systemd says.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What runs the relay, and where that answers.
pub(super) struct Service {
    restart: Option<Restart>,
    target: Option<Target>,
    /// How long it may take to be well after a restart.
    well_within: Duration,
}

/// How far a service has come with a new program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Restarted {
    /// Nothing is known that could be restarted.
    No,
    /// Where it answers is not known.
    Unasked,
    Well,
}

/// The program that the relay is to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// One that the relay may refuse, and go on.
    New,
    /// The one before, in the place of a new one that is not well: a refusal would leave that running.
    Previous,
}

/// How systemd's relay comes to run another program.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum How {
    /// By itself, and so that nobody notices.
    Handover,
    /// By a start, as its unit says.
    Anew {
        /// The units of sockets that are other ones now.
        sockets: Vec<&'static str>,
    },
}

/// What makes the relay run another program.
enum Restart {
    /// By a handover; by systemd where what runs is too old to know how, or the unit is another too.
    Unit {
        /// The program that was replaced.
        program: PathBuf,
        config: Option<PathBuf>,
    },
    /// By what somebody said, as a shell understands it.
    Command(String),
}

impl Service {
    /// `command`: what restarts it; without one it is the systemd unit, if that is active. `target`: where it
    /// answers, if that is known.
    pub(super) async fn find(
        command: Option<String>,
        (program, config): (&Path, Option<&Path>),
        target: Option<Target>,
        well_within: Duration,
    ) -> Self {
        let unit = || Restart::Unit { program: program.to_owned(), config: config.map(Path::to_owned) };
        let restart = match command {
            Some(command) => Some(Restart::Command(command)),
            None => is_unit_up().await.then(unit),
        };
        Self { restart, target, well_within }
    }

    /// Whether it answers now; one whose address is not known is not said to be ill.
    pub(super) async fn is_well(&self) -> bool {
        match &self.target {
            Some(target) => health::ask(target).await.is_ok(),
            None => true,
        }
    }

    /// The main process of the unit; `None`: there is none, or something else runs the relay.
    pub(super) async fn process(&self) -> Option<u32> {
        let Some(Restart::Unit { .. }) = &self.restart else { return None };
        property(UNIT, "MainPID").await?.parse().ok().filter(|process| *process > 0)
    }

    /// Whether it cannot be seen what program it runs.
    pub(super) const fn is_unseen(&self) -> bool {
        matches!(self.restart, Some(Restart::Command(_)))
    }

    /// Has it run `which` and waits until it is well, and stays so for a while.
    pub(super) async fn restart(&self, which: Which, how: &How) -> Result<Restarted, ServiceError> {
        let Some(restart) = &self.restart else {
            return Ok(Restarted::No);
        };
        match restart {
            Restart::Command(text) => run(Command::new("sh").arg("-c").arg(text), text).await?,
            Restart::Unit { program, config } => match how {
                How::Anew { sockets } => {
                    // The start of the service starts them again: none can be while it runs.
                    if !sockets.is_empty() {
                        let mut stop = Command::new("systemctl");
                        run(stop.arg("stop").args(sockets), "systemctl stop of the sockets").await?;
                    }
                    restart_anew().await?;
                }
                How::Handover => restart_unit(program, config.as_deref(), which).await?,
            },
        }
        self.watch().await
    }

    /// Waits until it is well, and stays so for a while.
    pub(super) async fn watch(&self) -> Result<Restarted, ServiceError> {
        if self.restart.is_none() {
            return Ok(Restarted::No);
        }
        match &self.target {
            Some(target) => becomes_well(target, self.well_within).await.map(|()| Restarted::Well),
            None => Ok(Restarted::Unasked),
        }
    }
}

/// By a handover; where that fails, what runs now is not known, or is what is to go: systemd starts it anew.
async fn restart_unit(program: &Path, config: Option<&Path>, which: Which) -> Result<(), ServiceError> {
    let mut upgrade = Command::new(program);
    upgrade.arg("upgrade");
    if let Some(config) = config {
        upgrade.arg("--config").arg(config);
    }
    match (run(&mut upgrade, "parley-relay upgrade").await, which) {
        (Ok(()), _) => Ok(()),
        (Err(ServiceError::Fails { command, status }), Which::New)
            if status.code() == Some(i32::from(EXIT_TRY_AGAIN)) =>
        {
            Err(ServiceError::GoesOn { command, status })
        }
        (Err(error), Which::New | Which::Previous) => {
            say!("{error}; `systemctl restart {UNIT}` instead");
            restart_anew().await
        }
    }
}

async fn restart_anew() -> Result<(), ServiceError> {
    run(Command::new("systemctl").args(["restart", UNIT]), "systemctl restart parley-relay").await
}

/// Has systemd read the unit files.
pub(super) async fn reload_units() -> Result<(), ServiceError> {
    run(Command::new("systemctl").arg("daemon-reload"), "systemctl daemon-reload").await
}

/// Runs `command`, which errors name by `text`.
async fn run(command: &mut Command, text: &str) -> Result<(), ServiceError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(RESTART_LIMIT, command.status()).await {
        Err(_) => Err(ServiceError::Hangs { command: text.to_owned() }),
        Ok(Err(source)) => Err(ServiceError::Start { command: text.to_owned(), source }),
        Ok(Ok(status)) if !status.success() => Err(ServiceError::Fails { command: text.to_owned(), status }),
        Ok(Ok(_)) => Ok(()),
    }
}

async fn becomes_well(target: &Target, within: Duration) -> Result<(), ServiceError> {
    let begun = Instant::now();
    let mut well_since = None;
    loop {
        match health::ask(target).await {
            Ok(_) => {
                let since: Instant = *well_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STAYS_WELL {
                    return Ok(());
                }
            }
            Err(source) => {
                well_since = None;
                let waited = begun.elapsed();
                if waited >= within {
                    return Err(ServiceError::Unwell { waited, source });
                }
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Whether the unit runs, or is on its way to it, as one is that fails again and again.
async fn is_unit_up() -> bool {
    let begun = Instant::now();
    loop {
        let mut command = Command::new("systemctl");
        command
            .args(["is-active", "--quiet", UNIT])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Where there is no systemd, there is no unit either.
        if command.status().await.is_ok_and(|status| status.success()) {
            return true;
        }
        match property(UNIT, "ActiveState").await.as_deref() {
            Some("activating") => return true,
            // That may be a restart's first half.
            Some("deactivating") if begun.elapsed() < STOPS_WITHIN => tokio::time::sleep(ASK_EVERY).await,
            Some(_) | None => return false,
        }
    }
}

/// Whether the unit's file is another than the one that systemd has read.
pub(super) async fn is_unread(unit: &str) -> bool {
    property(unit, "NeedDaemonReload").await.as_deref() == Some("yes")
}

/// Whether the machine is being shut down.
pub(super) async fn does_machine_end() -> bool {
    told(Command::new("systemctl").arg("is-system-running")).await.as_deref() == Some("stopping")
}

/// What systemd says of a unit; `None`: it says nothing.
async fn property(unit: &str, name: &str) -> Option<String> {
    told(Command::new("systemctl").args(["show", "--value", "--property", name, unit])).await
}

/// What a command prints that takes a moment.
async fn told(command: &mut Command) -> Option<String> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWERS_WITHIN, command.output()).await.ok()?.ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::update::WELL_WITHIN;

    #[test]
    fn an_update_that_is_stopped_has_the_time_for_its_restart_and_the_one_back() {
        let unit = include_str!("../../../dist/parley-relay-update.service");
        let minutes = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix("min"));
        let given = Duration::from_secs(60 * minutes.unwrap().parse::<u64>().unwrap());
        // A handover that does not end is followed by a restart.
        let one = 2 * RESTART_LIMIT + WELL_WITHIN + STAYS_WELL;
        assert!(given >= 2 * one, "{given:?}");
        assert!(unit.contains("\nKillMode=mixed\n"));
    }
}
