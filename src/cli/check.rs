//! `check`: every fault of a configuration, and nothing started.

use std::{path::PathBuf, process::ExitCode};

use super::{ConfigArgs, EXIT_INTERNAL, EXIT_USAGE};
use crate::config::Environment;

/// What `check` can be told.
#[derive(clap::Args, Clone)]
#[command(mut_arg("config", |config| config.help(super::CONFIG_HELP)))]
pub(crate) struct CheckArgs {
    /// The config file, as with --config
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Loads the configuration as `run` does, and tells what is wrong with it or hardly meant.
pub(crate) fn run(arguments: CheckArgs) -> ExitCode {
    let environment = Environment::of_process();
    let Some(config) = meant(arguments, &environment) else {
        eprintln!(
            "error: nothing to check: there is no {}; give FILE, such as `parley-relay check config.toml`, or flags",
            environment.installed.display()
        );
        return ExitCode::from(EXIT_USAGE);
    };
    let mut loaded = match config.load() {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(&error),
    };
    loaded.warnings.extend(super::warning_of_new_ca(&loaded.config));
    if super::warn(&loaded.warnings).is_err() {
        return ExitCode::from(EXIT_INTERNAL);
    }
    match &config.config {
        Some(file) => super::answer(&format!("{} is valid\n", file.display())),
        None => super::answer("the configuration is valid\n"),
    }
}

/// What is to be checked, if anything is.
fn meant(CheckArgs { file, config }: CheckArgs, environment: &Environment) -> Option<ConfigArgs> {
    ConfigArgs { config: config.config.or(file), ..config }.if_any(environment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn without_a_file_the_installed_config_is_checked_if_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let installed = directory.path().join("config.toml");
        let environment = Environment { installed: installed.clone(), ..Environment::of_process() };
        let checked = |file: Option<&str>, flags: Flags| {
            let arguments =
                CheckArgs { file: file.map(PathBuf::from), config: ConfigArgs { config: None, flags } };
            meant(arguments, &environment).map(|config| config.config)
        };
        let self_signed = || Flags { self_signed: true, ..Flags::default() };
        assert_eq!(checked(None, Flags::default()), None);
        std::fs::write(&installed, "").unwrap();
        assert_eq!(checked(None, Flags::default()), Some(Some(installed)));
        assert_eq!(checked(Some("a.toml"), Flags::default()), Some(Some("a.toml".into())));
        assert_eq!(checked(None, self_signed()), Some(None));
    }
}
