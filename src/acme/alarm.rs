//! Telling somebody that a renewal keeps failing.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};
use tracing::warn;

use crate::config::Subject;

/// How long the program may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `program` with the name and what is wrong. Its own failure is a line in the log and nothing more.
pub(super) async fn run(program: &Path, subject: &Subject, error: &str) {
    let started = Command::new(program)
        .arg(subject.to_string())
        .arg(error)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let ended = match started {
        Ok(mut child) => timeout(LIMIT, child.wait()).await,
        Err(error) => Ok(Err(error)),
    };
    let program = program.display();
    match ended {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => warn!(%program, "on_failure failed: {status}"),
        Ok(Err(error)) => warn!(%program, "on_failure cannot be run: {error}"),
        Err(_) => warn!(%program, "on_failure did not end in {} s, and was killed", LIMIT.as_secs()),
    }
}
