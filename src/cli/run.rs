//! `run`, the default: serve until a signal ends it.

use std::{path::Path, process::ExitCode, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use super::{ConfigArgs, EXIT_CONFIG, EXIT_INTERNAL};
use crate::{
    config::{Loaded, Style, UriPrefix},
    log,
    relay::{Ended, Relay, StartError, Surroundings},
    run_file::RunFile,
    systemd,
    tls::Predecessor,
    upgrade::Handover,
};

/// Serves what the file and the flags say.
pub(crate) fn run(arguments: &ConfigArgs) -> ExitCode {
    // First of all: it changes the environment, which no thread may read meanwhile.
    let passed = systemd::passed_sockets();
    let (handover, handed) = match Handover::of_process() {
        Ok(Some((handover, sockets))) => (Some(handover), sockets),
        Ok(None) => (None, Vec::new()),
        Err(error) => {
            eprintln!("error: {error}");
            return EXIT_INTERNAL.into();
        }
    };
    let refuse = |reason: &str| {
        if let Some(handover) = handover.as_ref().and_then(|handover| handover.try_clone().ok()) {
            handover.refuse(reason);
        }
    };
    let Loaded { config, warnings, sova } = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            refuse(&error.render(Style::Plain));
            return super::refuse_to_run(&error);
        }
    };
    let logging = log::start(&config.log);
    tell_sources(arguments.config.as_deref(), sova.as_deref(), &config.uri_prefix);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let mut inherited = handed;
    match passed {
        Ok(passed) => inherited.extend(passed),
        Err(error) => {
            tracing::error!("the sockets that systemd passes cannot be used: {error}");
            return EXIT_CONFIG.into();
        }
    }
    let manager = systemd::Manager::of_process().unwrap_or_else(|error| {
        tracing::warn!("{error}");
        systemd::Manager::default()
    });
    let before = if handover.is_some() { Predecessor::Running } else { Predecessor::None };
    let run_file = Some(RunFile::new(&config.control, before));
    let load = {
        let arguments = arguments.clone();
        Arc::new(move || arguments.load())
    };
    let last_word = handover.as_ref().and_then(|handover| handover.try_clone().ok());
    let surroundings = Surroundings { load, logging, manager, inherited, handover, run_file };
    serve(runtime, async {
        let relay = Relay::bind(config, surroundings).inspect_err(|error| {
            if let Some(handover) = last_word {
                handover.refuse(&error.advised_by_config());
            }
        });
        relay?.run().await
    })
}

/// Where the settings come from. Of the prefix it is told only whether there is one.
fn tell_sources(config: Option<&Path>, sova: Option<&Path>, prefix: &UriPrefix) {
    let shown = |file: Option<&Path>| file.map_or("none".into(), |file| file.display().to_string());
    let prefix = if prefix.as_path().is_empty() { "none" } else { "set" };
    tracing::info!(config = shown(config), backend_config = shown(sova), %prefix, "configured");
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

/// Threads that wait for the disk, at the most: tokio's own 512, which clients can call up with as many downloads at once,
/// are 40 MB (measured).
const BLOCKING: usize = 32;

/// A worker for each core.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    Builder::new_multi_thread().max_blocking_threads(BLOCKING).enable_all().build().map_err(|error| {
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
