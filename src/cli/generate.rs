//! `generate`, hidden: the man pages and completions that packages carry.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use time::OffsetDateTime;

use super::{Arguments, EXIT_INTERNAL};

/// What is written, and where.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    #[arg(value_name = "WHAT")]
    what: What,

    /// A directory, made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A page for the program and one for each command
    Man,
    /// For bash, fish and zsh
    Completions,
}

/// Writes the files.
pub(crate) fn run(arguments: &GenerateArgs) -> ExitCode {
    let directory = &arguments.directory;
    let written = fs::create_dir_all(directory).and_then(|()| match arguments.what {
        What::Man => man(directory),
        What::Completions => completions(directory),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: nothing can be written in {}: {error}", directory.display());
            ExitCode::from(EXIT_INTERNAL)
        }
    }
}

fn man(directory: &Path) -> io::Result<()> {
    // `help` repeats what the pages are.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    page(directory, &command, &date())
}

/// The page of one command, and those of what is below it.
fn page(directory: &Path, command: &clap::Command, date: &str) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(directory, below, date)?;
    }
    let title = command.get_display_name().unwrap_or(command.get_name()).to_uppercase();
    clap_mangen::Man::new(command.clone())
        .title(title)
        .date(date)
        .source(concat!("parley-relay ", env!("CARGO_PKG_VERSION")))
        .manual("Parley Chat")
        .generate_to(directory)
        .map(drop)
}

/// Today, or the day of SOURCE_DATE_EPOCH, so that a release's pages are the same whenever they are made.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let given = given.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok());
    let day = given.unwrap_or_else(OffsetDateTime::now_utc).date();
    // Year, month and day, as a date is displayed.
    day.to_string()
}

fn completions(directory: &Path) -> io::Result<()> {
    let mut command = Arguments::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "parley-relay", directory)?;
    }
    Ok(())
}
