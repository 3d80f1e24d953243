//! `check`: every fault of a configuration, and nothing started.

use std::{path::PathBuf, process::ExitCode};

use super::{ConfigArgs, EXIT_INTERNAL};

/// What `check` can be told.
#[derive(clap::Args, Clone)]
#[command(arg_required_else_help = true)]
pub(crate) struct CheckArgs {
    /// The config file
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Loads the configuration as `run` does, and tells what is wrong with it or hardly meant.
pub(crate) fn run(arguments: CheckArgs) -> ExitCode {
    let mut config = arguments.config;
    config.config = config.config.or(arguments.file);
    let loaded = match config.load() {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(&error),
    };
    if super::warn(&loaded.warnings).is_err() {
        return ExitCode::from(EXIT_INTERNAL);
    }
    match &config.config {
        Some(file) => super::answer(&format!("{} is valid\n", file.display())),
        None => super::answer("the configuration is valid\n"),
    }
}
