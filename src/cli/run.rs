//! `run`, the default: serve until a signal ends it.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use super::{ConfigArgs, EXIT_CONFIG, EXIT_INTERNAL};
use crate::{
    config::Loaded,
    log,
    relay::{Ended, Relay, StartError},
};

/// Serves what the file and the flags say.
pub(crate) fn run(arguments: &ConfigArgs) -> ExitCode {
    let Loaded { config, warnings } = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(&error),
    };
    log::start(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    match runtime() {
        Ok(runtime) => serve(runtime, async { Relay::bind(config)?.run().await }),
        Err(code) => code,
    }
}

/// Takes all the descriptors that the system lets us have: each stream is two of them, and the soft limit of most
/// systems is 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files cannot be raised");
    }
}

/// A worker for each core.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    Builder::new_multi_thread().enable_all().build().map_err(|error| {
        tracing::error!(%error, "the runtime cannot be started");
        ExitCode::from(EXIT_INTERNAL)
    })
}

/// Runs a relay to its end, and tells how it ended.
pub(super) fn serve(runtime: Runtime, relay: impl Future<Output = Result<Ended, StartError>>) -> ExitCode {
    let ended = runtime.block_on(relay);
    // What is open after the drain had its time: nothing waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Broken) => ExitCode::from(EXIT_INTERNAL),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
