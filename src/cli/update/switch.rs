//! The last stage of an update: the relay comes to run what is on disk, or everything goes back to what it was.
//!
//! It may be cut off wherever it is, by a kill or a power cut. The mark beside the program then stays, or the relay
//! still runs another program, or the units are another version's: the next update sees that, and ends it.

use std::fmt;

use semver::Version;

use super::{
    error::{ServiceError, UpdateError},
    program::{self, Keep, Program, Staged},
    service::{self, How, Restarted, Service, Which},
    units::Units,
};
use crate::signal::{Asked, Termination};

/// What an update that was cut off has left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// The relay runs another program than the one on disk.
    OtherProgram,
    /// Whether the relay works with the program on disk was never known.
    Unproven,
}

/// An update that was cut off is ended now.
pub(super) struct Finished {
    /// `None`: nothing but units.
    left: Option<Left>,
    /// `None`: the relay is not concerned.
    restarted: Option<Restarted>,
}

/// Has what begins here end, or be taken back, whatever signal comes. Only where the machine itself ends is the rest left
/// to the next update: of a relay that is stopped then nothing can be learnt, and the machine does not wait for it.
pub(super) async fn undisturbed<T>(
    work: impl Future<Output = Result<T, UpdateError>>,
) -> Result<T, UpdateError> {
    // That of a terminal that is gone is one more.
    let _hung_up = Asked::at_hang_up();
    let Ok(mut signals) = Termination::listen() else { return work.await };
    let machine_ends = async {
        loop {
            signals.received().await;
            if service::does_machine_end().await {
                break;
            }
        }
    };
    tokio::select! {
        ended = work => ended,
        () = machine_ends => Err(UpdateError::MachineEnds),
    }
}

/// Puts the staged program in its place, and has the relay run it.
pub(super) async fn to_new(
    program: &Program,
    staged: Staged,
    service: &Service,
    version: &Version,
) -> Result<Restarted, UpdateError> {
    let process = service.process().await;
    let left = Left::find(program, process);
    // Of the program that is replaced, another one's answers tell nothing.
    let was_well = left == Some(Left::OtherProgram) || service.is_well().await;
    let is_whole = left.is_none() && !program.has_mark();
    let runs_previous = process.is_some_and(|process| program.previous_is_run_by(process));
    let keep = if program.is_unproven() && program.has_previous() || runs_previous {
        Keep::Before
    } else {
        Keep::This
    };
    let mut units = if program.is_installed() {
        Units::of(program.path(), staged.path()).await
    } else {
        Units::default()
    };
    units.tell_edited();
    program.replace(staged, keep)?;
    units.renew().await;
    let ran = service.restart(Which::New, &units.how()).await;
    if ran.is_err() && service::does_machine_end().await {
        return Err(UpdateError::MachineEnds);
    }
    let ended = match ran {
        Ok(restarted) => Ok(restarted),
        // It cannot be told whether the new program is to blame, and it may be the one that mends this.
        Err(reason) if !was_well => Err(UpdateError::StillUnwell { version: version.clone(), reason }),
        Err(reason) => {
            let before = if is_whole { Some(units) } else { None };
            Err(go_back(program, before, service, version, reason).await)
        }
    };
    settled(program, ended)
}

/// Has the relay run the program that is on disk with that program's units, where an update before this one was cut off.
/// `Ok(None)`: there was none.
pub(super) async fn finish(
    program: &Program,
    service: &Service,
    version: &Version,
) -> Result<Option<Finished>, UpdateError> {
    let process = service.process().await;
    let left = Left::find(program, process);
    let is_unproven = program.is_unproven();
    let is_installed = program.is_installed();
    // What the program before prints is known where it is known which one that is.
    let old = if is_unproven { program.previous() } else { program.path().to_owned() };
    let mut units = if is_installed { Units::of(&old, program.path()).await } else { Units::default() };
    if is_installed && left.is_some() {
        units.find_unread().await;
    }
    if left.is_none() && units.are_current() {
        // They may not have been written down.
        units.renew().await;
        return Ok(None);
    }
    // Only what the relay worked with until then is gone back to.
    let can_go_back = program.has_previous()
        && (is_unproven || process.is_some_and(|process| program.previous_is_run_by(process)));
    let was_well = left == Some(Left::Unproven) || service.is_well().await;
    units.renew().await;
    let how = units.how();
    let is_unknown = process.map_or(service.is_unseen(), program::is_hidden);
    let restarts = how != How::Handover
        || left == Some(Left::OtherProgram)
        || left == Some(Left::Unproven) && is_unknown;
    let ran = if restarts {
        service.restart(Which::New, &how).await.map(Some)
    } else if left.is_some() {
        service.watch().await.map(Some)
    } else {
        Ok(None)
    };
    if ran.is_err() && service::does_machine_end().await {
        return Err(UpdateError::MachineEnds);
    }
    let ended = match ran {
        // A unit that is not there yet may be started yet, and then shows what the program is worth.
        Ok(Some(Restarted::No)) if is_installed => {
            return Ok(Some(Finished { left, restarted: Some(Restarted::No) }));
        }
        Ok(restarted) => Ok(Some(Finished { left, restarted })),
        Err(reason) if !was_well => Err(UpdateError::StillUnwell { version: version.clone(), reason }),
        Err(reason) if can_go_back => Err(go_back(program, None, service, version, reason).await),
        Err(reason) => {
            units.take_back().await;
            if !goes_on(&reason)
                && let Err(error) = service.restart(Which::Previous, &units.how()).await
            {
                say!("{error}");
            }
            Err(UpdateError::Unwell { version: version.clone(), reason })
        }
    };
    settled(program, ended)
}

/// Puts the program before back, and has the relay run it. `units`: what was changed of them; `None`: it is not known how
/// they were, after an update that was cut off.
async fn go_back(
    program: &Program,
    units: Option<Units>,
    service: &Service,
    version: &Version,
    reason: ServiceError,
) -> UpdateError {
    let version = version.clone();
    if let Err(error) = program.roll_back() {
        return UpdateError::Stuck { version, reason, previous: program.previous(), error };
    }
    let units = match units {
        Some(units) => {
            units.take_back().await;
            units
        }
        None if program.is_installed() => {
            let mut units = Units::of(&program.mark(), program.path()).await;
            units.renew().await;
            units
        }
        None => Units::default(),
    };
    let back = if goes_on(&reason) {
        Ok(())
    } else {
        service.restart(Which::Previous, &units.how()).await.map(drop)
    };
    UpdateError::RolledBack { version, reason, back }
}

/// Takes the mark away, but where the program that does not work could not be taken away.
fn settled<T>(program: &Program, ended: Result<T, UpdateError>) -> Result<T, UpdateError> {
    if !matches!(ended, Err(UpdateError::Stuck { .. })) {
        program.settle();
    }
    ended
}

/// Whether the process that ran before noticed nothing.
const fn goes_on(reason: &ServiceError) -> bool {
    matches!(reason, ServiceError::GoesOn { .. })
}

impl Left {
    /// `process`: the relay's, where that is known.
    pub(super) fn find(program: &Program, process: Option<u32>) -> Option<Self> {
        if program.is_installed() && process.is_some_and(|process| program.is_not_run_by(process)) {
            Some(Self::OtherProgram)
        } else {
            program.is_unproven().then_some(Self::Unproven)
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherProgram => "the relay still runs another program",
            Self::Unproven => "the update to it was cut off",
        })
    }
}

impl Finished {
    /// What was not as it should be, and what is now.
    pub(super) fn describe(&self) -> String {
        let was = match self.left {
            Some(Left::OtherProgram) => "the relay still ran another program",
            Some(Left::Unproven) => "the update to it was cut off",
            None => "units were still those of another",
        };
        let now = match self.restarted {
            Some(Restarted::Well) => "the relay runs this one now and answers",
            Some(Restarted::Unasked) => {
                "the relay runs this one now; --config FILE would say where to ask whether it answers"
            }
            Some(Restarted::No) => "no systemd unit parley-relay is active: restart what runs the relay",
            None => "its own are there now",
        };
        format!("{was}: {now}")
    }
}
